package server

import (
	"context"
	"net/http"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
)

// tileRoot is the log's prefix (C2SP tlog-tiles): checkpoint and tile/… are below it.
const tileRoot = "/ledger"

// plain is a route outside of the API's description, of bytes; who may use it is asked as for the others.
func (a *API) plain(n need, handle func(*gin.Context) error) gin.HandlerFunc {
	return func(c *gin.Context) {
		p, err := a.principal(c.Request.Context(), c.GetHeader("Authorization"))
		if err == nil && !n.allows(p) {
			err = artifact.Errorf(artifact.Denied, "%s, %s, may not %s here; ask an admin for a token with another role", p.Name, artifact.An(p.Roles()), n.action)
		}
		if err == nil {
			err = handle(c)
		}
		if err == nil {
			return
		}
		problem := newProblem(err)
		for name, values := range problem.GetHeaders() {
			c.Writer.Header()[name] = values
		}
		problem.RequestID = requestID(c)
		if problem.failure() {
			a.cfg.Logger.ErrorContext(c.Request.Context(), "request failed", "path", c.Request.URL.Path, "request", problem.RequestID, "status", problem.Status, "error", err)
		}
		c.Header("Cache-Control", "no-store")
		c.Header("Content-Type", problemType)
		c.JSON(problem.Status, problem)
	}
}

// tileCheckpoint serves the newest checkpoint, which covers all there is.
func (a *API) tileCheckpoint(c *gin.Context) error {
	checkpoint, err := a.cfg.Ledger.Checkpoint(c.Request.Context())
	if err != nil {
		return err
	}
	c.Header("Cache-Control", "no-cache")
	c.Data(http.StatusOK, "text/plain; charset=utf-8", []byte(checkpoint.Note))
	return nil
}

// tile serves hashes or entries. A tile never changes, a partial one neither: a longer one has another path. Caches that
// are shared keep none, since it is for those who may audit.
func (a *API) tile(c *gin.Context) error {
	b, err := a.cfg.Ledger.Tile(c.Request.Context(), "tile"+c.Param("path"))
	if err != nil {
		return err
	}
	c.Header("Cache-Control", "private, max-age=31536000, immutable")
	c.Data(http.StatusOK, "application/octet-stream", b)
	return nil
}

// ConsistencyProof proves that the tree of Newer entries extends that of Older: nothing in it was changed, removed or
// inserted.
type ConsistencyProof struct {
	Older      int64    `json:"older"`
	Newer      int64    `json:"newer"`
	Proof      [][]byte `json:"proof" doc:"Hashes, base64: RFC 6962, section 2.1.2"`
	Checkpoint string   `json:"checkpoint,omitempty" doc:"The signed note of the newer tree, where none was named"`
}

type (
	consistencyInput struct {
		Older int64 `query:"older" required:"true" minimum:"1" doc:"Size of the tree that is known"`
		Newer int64 `query:"newer" minimum:"1" doc:"Size of the tree that must extend it; without it, that of a new checkpoint"`
	}
	consistencyOutput struct{ Body ConsistencyProof }
)

func (a *API) ledgerConsistency(ctx context.Context, _ artifact.Principal, in *consistencyInput) (*consistencyOutput, error) {
	out := ConsistencyProof{Older: in.Older, Newer: in.Newer}
	if in.Newer == 0 {
		c, err := a.cfg.Ledger.Checkpoint(ctx)
		if err != nil {
			return nil, err
		}
		out.Newer, out.Checkpoint = c.Size, c.Note
	}
	proof, err := a.cfg.Ledger.Consistency(ctx, out.Older, out.Newer)
	if err != nil {
		return nil, err
	}
	out.Proof = orEmpty(proof)
	return &consistencyOutput{Body: out}, nil
}
