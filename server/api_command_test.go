package server

import (
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"
)

// TestCommandsAreOfOperations: a command whose operation was renamed would be told nowhere.
func TestCommandsAreOfOperations(t *testing.T) {
	t.Parallel()
	a := NewAPI(APIConfig{})
	a.Mount(gin.New())
	ids := map[string]bool{}
	for _, path := range a.huma.OpenAPI().Paths {
		if path.Get != nil {
			ids[path.Get.OperationID] = true
		}
		if path.Post != nil {
			ids[path.Post.OperationID] = true
		}
		if path.Delete != nil {
			ids[path.Delete.OperationID] = true
		}
	}
	for id := range commands {
		require.True(t, ids[id], id)
	}
}
