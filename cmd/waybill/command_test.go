package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"waybill/server"
)

// TestCommandsOfTheAPI: what the OpenAPI document says to type can be typed.
func TestCommandsOfTheAPI(t *testing.T) {
	t.Parallel()
	gin.SetMode(gin.TestMode)
	api := server.NewAPI(server.APIConfig{})
	api.Mount(gin.New())
	text, err := api.Description()
	require.NoError(t, err)
	var document struct {
		Paths map[string]map[string]struct {
			ID      string `json:"operationId"`
			Command string `json:"x-waybill-command"`
		} `json:"paths"`
	}
	require.NoError(t, json.Unmarshal(text, &document))
	root := newRoot(&cobra.Command{Use: "serve", RunE: func(*cobra.Command, []string) error { return nil }})
	for _, methods := range document.Paths {
		for _, o := range methods {
			words := strings.Fields(o.Command)
			if len(words) == 0 {
				continue
			}
			require.Equal(t, "waybill", words[0])
			cmd, rest, err := root.Find(words[1:])
			require.NoError(t, err, o.Command)
			require.True(t, cmd.HasParent() && cmd.Runnable(), "%s: %s", o.ID, o.Command)
			require.NoError(t, cmd.ParseFlags(rest), o.Command)
			require.NoError(t, cmd.ValidateArgs(cmd.Flags().Args()), "%s: %s", o.ID, o.Command)
			require.NoError(t, cmd.ValidateRequiredFlags(), "%s: %s", o.ID, o.Command)
		}
	}
}
