package artifact_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"waybill/artifact"
)

// TestTrees: a layer's tree has what it adds, overwrites, removes, and what later layers hide of it.
func TestTrees(t *testing.T) {
	t.Parallel()
	regular := func(path string, size int64) artifact.File {
		return artifact.File{Path: path, Type: artifact.Regular, Size: size}
	}
	facts, err := artifact.Fold([]artifact.LayerFacts{
		{Files: []artifact.File{{Path: "usr", Type: artifact.Dir}, regular("usr/bin/app", 100), regular("usr/bin/tool", 10), regular("var/cache/a", 7), regular("var/cache/b", 5)}},
		{Files: []artifact.File{regular("usr/bin/app", 200), {Path: "var/cache", Type: artifact.Whiteout}, regular("etc/conf", 1)}},
	}, artifact.ImageConfig{})
	require.NoError(t, err)
	trees := facts.Trees(2, 10)
	require.Equal(t, artifact.Sum{Files: 4, Bytes: 122}, trees[0].Added)
	require.Equal(t, artifact.Sum{Files: 3, Bytes: 112}, trees[0].Hidden)
	require.Equal(t, trees[0].Wasted, trees[0].Hidden.Bytes)
	require.Equal(t, []artifact.TreeNode{
		{Name: "usr", Added: artifact.Sum{Files: 2, Bytes: 110}, Hidden: artifact.Sum{Files: 1, Bytes: 100}, Children: []artifact.TreeNode{
			{Name: "bin", Added: artifact.Sum{Files: 2, Bytes: 110}, Hidden: artifact.Sum{Files: 1, Bytes: 100}}}},
		{Name: "var", Added: artifact.Sum{Files: 2, Bytes: 12}, Hidden: artifact.Sum{Files: 2, Bytes: 12}, Children: []artifact.TreeNode{
			{Name: "cache", Added: artifact.Sum{Files: 2, Bytes: 12}, Hidden: artifact.Sum{Files: 2, Bytes: 12}}}},
	}, trees[0].Tree)
	require.Equal(t, artifact.Sum{Files: 2, Bytes: 201}, trees[1].Added)
	require.Equal(t, artifact.Sum{Files: 1, Bytes: 100}, trees[1].Overwritten)
	require.Equal(t, artifact.Sum{Files: 2, Bytes: 12}, trees[1].Removed)
	require.Zero(t, trees[1].Hidden)

	few := facts.Trees(3, 1)
	require.Len(t, few[0].Tree, 1)
	require.Equal(t, "app", few[0].Tree[0].Children[0].Children[0].Name)
	require.Equal(t, 1, few[0].Tree[0].Children[0].More)
}

// TestTreesAddUp: whatever the layers, what a directory shows is what its children show, and a layer's waste is the fold's.
func TestTreesAddUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"a", "b", "c", "a/x", "a/y", "b/x/z", "c/d/e"})
		var layers []artifact.LayerFacts
		for range rapid.IntRange(1, 4).Draw(t, "layers") {
			var files []artifact.File
			for range rapid.IntRange(0, 6).Draw(t, "entries") {
				file := artifact.File{Path: name.Draw(t, "path"), Type: rapid.SampledFrom([]artifact.FileType{artifact.Regular, artifact.Dir, artifact.Whiteout}).Draw(t, "type")}
				if file.Type == artifact.Regular {
					file.Size = rapid.Int64Range(0, 9).Draw(t, "size")
				}
				files = append(files, file)
			}
			layers = append(layers, artifact.LayerFacts{Files: files})
		}
		facts, err := artifact.Fold(layers, artifact.ImageConfig{})
		if err != nil {
			return // no runtime takes it
		}
		var visible, added, hidden int64
		for _, f := range facts.Files {
			visible += f.Size
		}
		for _, tree := range facts.Trees(9, 99) {
			added, hidden = added+tree.Added.Bytes, hidden+tree.Hidden.Bytes
			require.Equal(t, tree.Wasted, tree.Hidden.Bytes)
			var below int64
			for _, n := range tree.Tree {
				below += n.Added.Bytes
			}
			require.Equal(t, tree.Added.Bytes, below)
		}
		require.Equal(t, visible, added-hidden)
	})
}
