package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waybill/artifact"
)

// scanState is what scanMetrics asks; *postgres.DB answers.
type scanState interface {
	AdvisoryDatabase(ctx context.Context) (artifact.AdvisoryDatabase, bool, error)
	JavaDatabase(ctx context.Context) (artifact.AdvisoryDatabase, bool, error)
	// ScanBacklog counts the images that some repository holds without an answer of the advisory database in force.
	ScanBacklog(ctx context.Context) (artifact.ScanBacklog, error)
}

// scanMetrics tells, when it is asked, how old the databases are and what is still to be scanned. While PostgreSQL does not
// answer it tells nothing: the other metrics are wanted then.
type scanMetrics struct {
	db     scanState
	logger *slog.Logger
	now    func() time.Time

	mu    sync.Mutex // guards what follows
	known scanKnown
}

type scanKnown struct {
	at      time.Time // the zero time: nothing is
	built   map[string]time.Time
	backlog artifact.ScanBacklog
}

// Bounds of what a scrape costs: counting reads every scan that is open.
const (
	scrapeWait  = 5 * time.Second
	scrapeAgain = 30 * time.Second // until then what was counted last is told
)

var (
	databaseAge = prometheus.NewDesc("waybill_database_age_seconds", "Seconds since the database in force was built, by database: advisories or java. None where there is no such database.", []string{"database"}, nil)
	scansOpen   = prometheus.NewDesc("waybill_scans_open", "Images without an answer of the advisory database in force, by why: pending (never scanned), failed, or outdated (to be matched anew).", []string{"state"}, nil)
)

// Describe says what there is.
func (s *scanMetrics) Describe(all chan<- *prometheus.Desc) {
	all <- databaseAge
	all <- scansOpen
}

// Collect tells it.
func (s *scanMetrics) Collect(all chan<- prometheus.Metric) {
	known, err := s.look()
	if err != nil {
		s.logger.Warn("metrics of scans cannot be told", "error", err)
		return
	}
	for database, built := range known.built {
		all <- prometheus.MustNewConstMetric(databaseAge, prometheus.GaugeValue, s.now().Sub(built).Seconds(), database)
	}
	for state, n := range map[string]int64{"pending": known.backlog.Pending, "failed": known.backlog.Failed, "outdated": known.backlog.Outdated} {
		all <- prometheus.MustNewConstMetric(scansOpen, prometheus.GaugeValue, float64(n), state)
	}
}

func (s *scanMetrics) look() (scanKnown, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known.at.IsZero() && s.now().Sub(s.known.at) < scrapeAgain {
		return s.known, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeWait) // prometheus.Collector has no place for one
	defer cancel()
	known := scanKnown{at: s.now(), built: map[string]time.Time{}}
	for name, ask := range map[string]func(context.Context) (artifact.AdvisoryDatabase, bool, error){"advisories": s.db.AdvisoryDatabase, "java": s.db.JavaDatabase} {
		d, have, err := ask(ctx)
		if err != nil {
			return known, err
		}
		if have {
			known.built[name] = d.UpdatedAt
		}
	}
	var err error
	if known.backlog, err = s.db.ScanBacklog(ctx); err != nil {
		return known, err
	}
	s.known = known
	return known, nil
}
