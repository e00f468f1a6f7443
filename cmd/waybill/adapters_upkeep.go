package main

import (
	"context"
	"time"

	"waybill/artifact"
	"waybill/jobs"
	"waybill/postgres"
	"waybill/registry"
	"waybill/storage"
)

// upkeep is what looks after what is stored, whoever asks for it; the book remembers what it came to, and accounts are
// counted anew.
type upkeep struct {
	collector *registry.Collector
	checker   *registry.Checker
	keeper    *storage.Keeper
	accounts  *storage.Accounts
	book      *storage.Book
}

// Collect collects garbage; a dry run leaves no trace.
func (u *upkeep) Collect(ctx context.Context, p artifact.Principal, dryRun bool) (registry.Collected, error) {
	began := u.book.Now()
	done, err := u.collector.Collect(ctx, dryRun)
	if !dryRun {
		u.accounts.Recount()
		u.book.Note(ctx, storage.RunCollection, p.Name, began, storage.Outcome{Removed: done.Blobs.Count + done.Uploads.Count + done.Files.Count, Unlinked: done.Links.Count, Freed: done.Freed}, err)
	}
	return done, err
}

// Check reads every blob.
func (u *upkeep) Check(ctx context.Context, p artifact.Principal, quarantine bool, report registry.CheckReport) (registry.Checked, error) {
	began, o, tell := u.book.Now(), storage.Outcome{}, report.Found
	report.Found = func(f registry.Finding) {
		if len(o.Found) < storage.MaxDamages {
			o.Found = append(o.Found, storage.Damage{Kind: string(f.Damage), Digest: f.Digest, Detail: f.Detail, Repositories: f.Repositories, Quarantined: f.Quarantined})
		}
		tell(f)
	}
	done, err := u.checker.Check(ctx, quarantine, report)
	o.Blobs, o.Bytes, o.Findings = done.Blobs, done.Bytes, done.Findings
	u.book.Note(ctx, storage.RunCheck, p.Name, began, o, err)
	return done, err
}

// Run runs retention; a dry run leaves no trace. Where no document has retention there is nothing to note.
func (u *upkeep) Run(ctx context.Context, actor string, dryRun bool) (storage.Report, error) {
	began := u.book.Now()
	report, err := u.keeper.Run(ctx, actor, dryRun)
	if dryRun || err == nil && len(report.Repositories) == 0 {
		return report, err
	}
	o := storage.Outcome{Documents: int64(len(report.Repositories))}
	for _, r := range report.Repositories {
		o.Removed += int64(len(r.Removed))
		o.Skipped += int64(len(r.Skipped))
		o.Freed += r.Freed
	}
	u.book.Note(ctx, storage.RunRetention, actor, began, o, err)
	return report, err
}

// Interval and Key are what is configured.
func (p *advisoryPulls) Interval() time.Duration { return p.cfg.Interval }

// Key is the id of the key that must have signed what is pulled.
func (p *advisoryPulls) Key() string {
	if p.verifier == nil {
		return ""
	}
	return p.verifier.ID()
}

// NextPull is when the advisory database is pulled by itself next, at the latest.
func (p *advisoryPulls) NextPull(ctx context.Context) (time.Time, error) {
	if p.cfg.Source == "" {
		return time.Time{}, nil
	}
	last, _, err := p.db.AdvisoryPull(ctx)
	return jobs.NextPull(last, p.cfg.Interval, time.Now().UTC()), err
}

// AdvisoryDatabases and JavaDatabases are those that were in force.
func (p *advisoryPulls) AdvisoryDatabases(ctx context.Context, n int) ([]artifact.AdvisoryDatabase, error) {
	return p.db.AdvisoryDatabases(ctx, n)
}

// JavaDatabases is AdvisoryDatabases of Java databases.
func (p *advisoryPulls) JavaDatabases(ctx context.Context, n int) ([]artifact.AdvisoryDatabase, error) {
	return p.db.JavaDatabases(ctx, n)
}

// coverageShare: one part of so many of the time may be spent with counting images. There may be a million.
const coverageShare = 50

// Matched counts images by how far they are with the advisory database in force; it may be what was counted a while ago.
func (p *advisoryPulls) Matched(ctx context.Context) (artifact.ScanCoverage, error) {
	p.counting.Lock()
	defer p.counting.Unlock()
	if time.Since(p.countedAt) < coverageShare*p.countTook {
		return p.counted, nil
	}
	began := time.Now()
	c, err := coverage(ctx, p.db)
	if err == nil {
		p.counted, p.countedAt, p.countTook = c, time.Now(), time.Since(began)
	}
	return c, err
}

func coverage(ctx context.Context, db *postgres.DB) (c artifact.ScanCoverage, err error) {
	backlog, err := db.ScanBacklog(ctx)
	if err != nil {
		return c, err
	}
	c = artifact.ScanCoverage{Outdated: backlog.Outdated, Pending: backlog.Pending, Failed: backlog.Failed}
	d, have, err := db.AdvisoryDatabase(ctx)
	if err != nil || !have {
		return c, err
	}
	c.Matched, err = db.ScansMatched(ctx, d.Digest)
	return c, err
}
