package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/promotion"
)

const (
	simpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	daemon        = "\x7fELF sshd: no hostkeys available -- exiting.\x00AuthorizedKeysFile\x00OpenSSH_9.6\x00"
)

var (
	good = image{user: "1000", files: map[string]string{"app": "good"}}
	evil = image{user: "root", files: map[string]string{"usr/sbin/sshd": daemon}}
)

func TestPushAndPull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	body := w.manifest(good)
	pushed := w.mustPut("v1", body)
	for _, ref := range []artifact.Reference{{Repository: w.shop, Tag: parse(t, artifact.ParseTag, "v1")}, {Repository: w.shop, Digest: pushed.Digest}} {
		m, err := w.GetManifest(t.Context(), w.pusher, ref)
		require.NoError(t, err)
		require.Equal(t, body, m.Body)
		require.True(t, m.IsImage)
	}
	_, err := w.put("v1", w.manifest(image{user: "1000", files: map[string]string{"app": "other"}}))
	require.ErrorContains(t, err, "stays so")
	_, err = w.put("production", body)
	require.ErrorContains(t, err, "only a promotion moves it")
	w.mustPut("latest", body)
	w.mustPut("latest", w.manifest(image{user: "1000", files: map[string]string{"app": "newer"}}))
}

// TestDeniedByBytes: what runtimes would unpack is judged, whatever its types claim it to be.
func TestDeniedByBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, claim := range []string{"", simpleSigning, "application/vnd.in-toto+json", "application/vnd.harmless"} {
		sly := evil
		sly.layerType = claim
		body := w.manifest(sly)
		_, err := w.put("v1", body)
		require.Equal(t, artifact.Denied, artifact.KindOf(err), "%s: %v", claim, err)
		require.ErrorContains(t, err, "no-root-user")
		require.ErrorContains(t, err, "no-sshd")
		_, err = w.GetManifest(t.Context(), w.admin, artifact.Reference{Repository: w.shop, Digest: artifact.DigestOf(body)})
		require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	}
	_, err := w.put("v1", w.wire(map[string]any{"mediaType": artifact.MediaTypeManifest, "config": w.blob("application/octet-stream", make([]byte, artifact.MaxManifest+1)), "layers": []artifact.Descriptor{}}))
	require.Equal(t, artifact.TooLarge, artifact.KindOf(err), "what is too long to look at is not let through")
	require.ErrorContains(t, err, "put what is large into a layer")
	// A signature is text, and meets no rule about images.
	config := w.blob(artifact.MediaTypeConfig, []byte(`{"architecture":"","os":"","config":{},"rootfs":{"type":"layers","diff_ids":["`+artifact.DigestOf(nil).String()+`"]}}`))
	signature := w.wire(map[string]any{"mediaType": artifact.MediaTypeManifest, "config": config,
		"layers": []artifact.Descriptor{w.blob(simpleSigning, []byte(`{"critical":{"identity":{}}}`))}})
	name := strings.Replace(artifact.DigestOf([]byte("x")).String(), ":", "-", 1) + ".sig"
	w.mustPut(name, signature)
	_, err = w.put(name, w.wire(map[string]any{"mediaType": artifact.MediaTypeIndex, "manifests": []artifact.Descriptor{}}))
	require.ErrorContains(t, err, "where cosign keeps")
	_, err = w.put(name, w.manifest(good))
	require.ErrorContains(t, err, "where cosign keeps")
}

func TestBurntTag(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.manifest(good)
	w.mustPut("v1", first)
	tag := artifact.Reference{Repository: w.shop, Tag: parse(t, artifact.ParseTag, "v1")}
	require.NoError(t, w.DeleteManifest(t.Context(), w.admin, tag))
	_, err := w.put("v1", w.manifest(image{user: "1000", files: map[string]string{"app": "other"}}))
	require.ErrorContains(t, err, "until it was deleted")
	w.mustPut("v1", first)
}

// TestReferrersBringNoImage: what names a promoted image as its subject is pulled with it, but an image's blobs are not.
func TestReferrersBringNoImage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v1 := w.mustPut("v1", w.manifest(good))
	secret := w.manifest(image{user: "1000", files: map[string]string{"app": "not promoted"}})
	v2 := w.mustPut("v2", secret)
	verdict, err := w.judge.JudgeStored(t.Context(), w.shop, v1.Digest)
	require.NoError(t, err)
	pass, err := verdict.Promotion()
	require.NoError(t, err)
	dev := parse(t, artifact.ParseEnvironment, "dev")
	_, err = w.db.Promote(t.Context(), promotion.Move{Promotion: artifact.Promotion{Action: "promote", Repository: w.shop, Digest: v1.Digest, Environment: dev, Actor: "user:ada", PolicyHash: pass.PolicyHash()}, Pass: pass, Versions: 1})
	require.NoError(t, err)

	m, err := artifact.ParseManifest("", secret)
	require.NoError(t, err)
	note := w.blob("text/plain", []byte("a note"))
	referrer := w.mustPut("", w.wire(map[string]any{"mediaType": artifact.MediaTypeManifest, "subject": &v1, "config": w.blob("application/vnd.oci.empty.v1+json", []byte("{}")),
		"layers": []artifact.Descriptor{note, m.Layers[0], *m.Config}}))
	deployer := artifact.Principal{Name: "token:node", Role: artifact.Deployer, Environments: []artifact.Environment{dev}}
	may := func(d artifact.Digest) error {
		_, err := w.StatBlob(t.Context(), deployer, w.shop, d)
		return err
	}
	_, err = w.GetManifest(t.Context(), deployer, artifact.Reference{Repository: w.shop, Digest: referrer.Digest})
	require.NoError(t, err)
	require.NoError(t, may(note.Digest))
	require.Equal(t, artifact.Denied, artifact.KindOf(may(m.Layers[0].Digest)))
	require.Equal(t, artifact.Denied, artifact.KindOf(may(m.Config.Digest)))
	_, err = w.GetManifest(t.Context(), deployer, artifact.Reference{Repository: w.shop, Digest: v2.Digest})
	require.Equal(t, artifact.Denied, artifact.KindOf(err))
}

// TestDeleteRace: whoever comes first, an acknowledged manifest has all that it names.
func TestDeleteRace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for round := range 100 {
		body := w.manifest(image{user: "1000", files: map[string]string{"app": fmt.Sprint(round)}})
		m, err := artifact.ParseManifest("", body)
		require.NoError(t, err)
		index := w.wire(map[string]any{"mediaType": artifact.MediaTypeIndex, "manifests": []artifact.Descriptor{
			{MediaType: artifact.MediaTypeManifest, Digest: artifact.DigestOf(body), Size: int64(len(body))}}})
		if round%2 == 0 {
			w.mustPut("", body)
		}
		var (
			both           sync.WaitGroup
			putErr, delErr error
		)
		both.Go(func() {
			if round%2 == 0 {
				_, putErr = w.put("", index)
			} else {
				_, putErr = w.put("", body)
			}
		})
		both.Go(func() {
			if round%2 == 0 {
				delErr = w.DeleteManifest(context.Background(), w.admin, artifact.Reference{Repository: w.shop, Digest: artifact.DigestOf(body)})
			} else {
				delErr = w.DeleteBlob(context.Background(), w.admin, w.shop, m.Layers[0].Digest)
			}
		})
		both.Wait()
		if putErr != nil {
			require.Contains(t, []artifact.Kind{artifact.NotFound, artifact.Denied}, artifact.KindOf(putErr), "%v", putErr)
			require.NoError(t, delErr)
			continue
		}
		require.Error(t, delErr, "round %d: the manifest was acknowledged, and what it needs was deleted", round)
		require.NotEmpty(t, artifact.KindOf(delErr), "%v", delErr)
	}
}

func TestUploads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	content := "0123456789"
	d := artifact.DigestOf([]byte(content))
	u, err := w.StartUpload(ctx, w.pusher, w.shop)
	require.NoError(t, err)
	u, err = w.Append(ctx, w.pusher, w.shop, u.ID, nil, strings.NewReader(content[:4]))
	require.NoError(t, err)
	require.EqualValues(t, 4, u.Offset)
	_, err = w.Append(ctx, artifact.Principal{Name: "token:other", Role: artifact.Pusher}, w.shop, u.ID, nil, strings.NewReader("x"))
	require.Equal(t, artifact.NotFound, artifact.KindOf(err), "another's upload is unknown")
	broken := &breaking{strings.NewReader(content[4:7])}
	u, err = w.Append(ctx, w.pusher, w.shop, u.ID, nil, broken)
	require.ErrorContains(t, err, "broke off")
	require.EqualValues(t, 7, u.Offset, "what arrived is kept")
	_, err = w.FinishUpload(ctx, w.pusher, w.shop, u.ID, nil, strings.NewReader(content[7:]), d)
	require.NoError(t, err)
	size, err := w.StatBlob(ctx, w.pusher, w.shop, d)
	require.NoError(t, err)
	require.EqualValues(t, 10, size)

	u, err = w.StartUpload(ctx, w.pusher, w.shop)
	require.NoError(t, err)
	_, err = w.FinishUpload(ctx, w.pusher, w.shop, u.ID, nil, strings.NewReader("other"), d)
	require.Equal(t, artifact.Invalid, artifact.KindOf(err))
	_, err = w.Upload(ctx, w.pusher, w.shop, u.ID)
	require.Equal(t, artifact.NotFound, artifact.KindOf(err), "an upload of wrong bytes is dropped")

	other := parse(t, artifact.ParseRepository, "bank/ledger")
	mounted, err := w.Mount(ctx, artifact.Principal{Name: "token:bank", Role: artifact.Pusher, Repositories: []string{"bank/**"}}, other, w.shop, d)
	require.NoError(t, err)
	require.False(t, mounted, "nobody mounts what they may not read")
	mounted, err = w.Mount(ctx, w.pusher, other, artifact.Repository{}, d)
	require.NoError(t, err)
	require.True(t, mounted)
}

// breaking is a body whose client goes away.
type breaking struct{ *strings.Reader }

func (b *breaking) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil {
		return n, errors.New("connection reset")
	}
	return n, nil
}
