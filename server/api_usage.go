package server

import (
	"context"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
	"waybill/storage"
)

// Accounts say what is stored (storage.Accounts).
type Accounts interface {
	Account(ctx context.Context) (storage.Account, error)
}

// Runs are those that looked after what is stored.
type Runs interface {
	// Runs returns the newest of a kind, the newest first, at most n.
	Runs(ctx context.Context, kind string, n int) ([]storage.Run, error)
}

// StorageUsage is the answer to GET /storage.
type StorageUsage struct {
	CountedAt    time.Time        `json:"countedAt" doc:"Counting reads all there is, and is done beside who asks"`
	Total        *StorageTotal    `json:"total,omitempty" doc:"For who may look at every repository"`
	Repositories []RepositoryUsed `json:"repositories"`
	Of           int              `json:"of" doc:"How many repositories there are that match, on all pages"`
}

// StorageTotal is what the whole store holds.
type StorageTotal struct {
	Blobs   int64 `json:"blobs"`
	Bytes   int64 `json:"bytes" doc:"Of all blobs, each once"`
	Shared  int64 `json:"sharedBytes" doc:"Of blobs that several repositories have"`
	Loose   int64 `json:"looseBytes" doc:"Of blobs that no repository has; garbage collection takes them when they are old enough"`
	Uploads int64 `json:"uploadBytes" doc:"That uploads under way have brought"`
	Quota   int64 `json:"quotaBytes,omitempty" doc:"What it may hold (registry.quota); absent: any number"`
}

// RepositoryUsed is what one repository has of it.
type RepositoryUsed struct {
	Repository artifact.Repository `json:"repository"`
	Blobs      int64               `json:"blobs"`
	Bytes      int64               `json:"bytes"`
	Own        *int64              `json:"ownBytes,omitempty" doc:"Of blobs that no other repository has: what would go with this one. For who may look at every repository"`
	Quota      int64               `json:"quotaBytes,omitempty" doc:"Absent: any number"`
	Document   string              `json:"document,omitempty" doc:"The one whose quota it is"`
}

// StorageRuns is the answer to GET /storage/runs.
type StorageRuns struct {
	Runs []storage.Run `json:"runs"`
}

type (
	storageInput struct {
		Match string `query:"match" maxLength:"255" doc:"Repositories whose name holds this"`
		Sort  string `query:"sort" enum:"size,own,name" default:"size"`
		Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
		Page  int    `query:"page" minimum:"1" maximum:"1000000" default:"1"`
	}
	storageOutput struct{ Body StorageUsage }
	runsInput     struct {
		Kind  string `query:"kind" required:"true" enum:"gc,fsck,retention" example:"gc"`
		Limit int    `query:"limit" minimum:"1" maximum:"200" default:"20"`
	}
	runsOutput struct{ Body StorageRuns }
)

// storage answers with what the caller's repositories hold. That others have the same blobs is for who sees those too:
// else it could be found out of any blob, by pushing it.
func (a *API) storage(ctx context.Context, p artifact.Principal, in *storageInput) (*storageOutput, error) {
	account, err := a.cfg.Accounts.Account(ctx)
	if err != nil {
		return nil, err
	}
	everywhere := p.CanEverywhere(artifact.ActionLook)
	out := &storageOutput{Body: StorageUsage{CountedAt: account.CountedAt, Repositories: []RepositoryUsed{}}}
	if everywhere {
		out.Body.Total = &StorageTotal{account.Blobs, account.Bytes, account.Shared, account.Loose, account.Uploads, account.Quota}
	}
	all := slices.DeleteFunc(slices.Clone(account.Repositories), func(h storage.Holding) bool {
		return !p.Can(artifact.ActionLook, h.Repository) || !strings.Contains(h.Repository.String(), strings.ToLower(in.Match))
	})
	if by := in.Sort; everywhere || by != "own" {
		storage.Sort(all, by)
	}
	out.Body.Of = len(all)
	from := min((in.Page-1)*in.Limit, len(all))
	for _, h := range all[from:min(from+in.Limit, len(all))] {
		used := RepositoryUsed{Repository: h.Repository, Blobs: h.Blobs, Bytes: h.Bytes, Quota: h.Quota, Document: h.Document}
		if everywhere {
			used.Own = &h.Own
		}
		out.Body.Repositories = append(out.Body.Repositories, used)
	}
	return out, nil
}

func (a *API) storageRuns(ctx context.Context, _ artifact.Principal, in *runsInput) (*runsOutput, error) {
	all, err := a.cfg.Runs.Runs(ctx, in.Kind, in.Limit)
	if err != nil {
		return nil, err
	}
	return &runsOutput{Body: StorageRuns{Runs: orEmpty(all)}}, nil
}
