package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"

	"waybill/jobs"
	"waybill/ledger"
	"waybill/postgres"
)

// LedgerConfig says who watches the ledger.
type LedgerConfig struct {
	// Witnesses are asked to cosign checkpoints (C2SP tlog-witness). In the file only.
	Witnesses []WitnessConfig `yaml:"witnesses"`
}

// WitnessConfig is somebody who cosigns checkpoints, such as `waybill witness` in another organisation.
type WitnessConfig struct {
	// URL is its submission prefix: https://HOST/PATH, below which it has add-checkpoint.
	URL string `yaml:"url"`
	// Key is its verifier key, as it prints it: NAME+HASH+KEY.
	Key string `yaml:"key"`
}

// wrongWitness returns what is wrong with the first witness that cannot be, and where that is written.
func (cfg *Config) wrongWitness() (at string, wrong error) {
	seen := map[string]bool{}
	for i, w := range cfg.Ledger.Witnesses {
		place := fmt.Sprintf("$.ledger.witnesses[%d]", i)
		u, err := url.Parse(w.URL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" {
			return place + ".url", errors.New("want https://HOST/PATH, without a password")
		}
		name, err := ledger.WitnessName(w.Key)
		if err != nil {
			return place + ".key", err
		}
		if seen[name] {
			return place + ".key", fmt.Errorf("another witness is called %s too", name)
		}
		seen[name] = true
	}
	return "", nil
}

// witnesser asks the configured witnesses; nil where there are none.
func (cfg *Config) witnesser(db *postgres.DB, signer *ledger.Signer, logger *slog.Logger) *jobs.Witnesser {
	w := &jobs.Witnesser{Store: witnessStore{db, signer}, Logger: logger}
	for _, c := range cfg.Ledger.Witnesses {
		name, _ := ledger.WitnessName(c.Key) // as loadConfig checked
		w.Witnesses = append(w.Witnesses, jobs.Witness{Name: name, URL: c.URL, Key: c.Key})
	}
	if len(w.Witnesses) == 0 {
		return nil
	}
	return w
}
