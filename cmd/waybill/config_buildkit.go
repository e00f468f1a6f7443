package main

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"waybill/builder"
	"waybill/policy"
)

// BuildKitConfig says where BuildKit is, and what a build may take.
type BuildKitConfig struct {
	// Address of a BuildKit daemon, unix:///… or tcp://HOST:PORT. Empty: a private one in the data folder, where buildkitd
	// and runc or crun are installed and the server is root.
	Address string `yaml:"address"`
	// CA is the file of the certificate that the daemon's is checked with, for tcp://.
	CA string `yaml:"ca"`
	// Certificate and Key are files of what this server shows to the daemon.
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	// Builds is how many run at once on this server. Default 2.
	Builds int `yaml:"builds"`
	// Steps is how many steps the private daemon runs at once. Default 4.
	Steps int `yaml:"steps"`
	// Timeout ends a build. Default 30m.
	Timeout time.Duration `yaml:"timeout"`
	// Memory is how much a step may use, such as 4Gi. Default all there is.
	Memory policy.Quantity `yaml:"memory"`
	// Processors is how many a step may use, in hundredths: 150 is one and a half. Default all there are.
	Processors int `yaml:"processors"`
	// Network is what steps reach: host, or none. Default host.
	Network string `yaml:"network"`
	// Image is how large an image may be, compressed. Default 10Gi.
	Image policy.Quantity `yaml:"image"`
	// Cache is how much the private daemon keeps of earlier builds. Default 10Gi.
	Cache policy.Quantity `yaml:"cache"`
	// Log is how much is kept of what one build says. Default 8Mi.
	Log policy.Quantity `yaml:"log"`
	// Idle is how long the private daemon waits for the next build before it is ended. Default 5m.
	Idle time.Duration `yaml:"idle"`
}

func (k *BuildKitConfig) setDefaults() {
	setDefault(&k.Builds, 2)
	setDefault(&k.Steps, 4)
	setDefault(&k.Timeout, 30*time.Minute)
	setDefault(&k.Network, "host")
	setDefault(&k.Image, 10<<30)
	setDefault(&k.Cache, 10<<30)
	setDefault(&k.Log, 8<<20)
	setDefault(&k.Idle, 5*time.Minute)
}

func (k BuildKitConfig) wrong() error {
	tcp := strings.HasPrefix(k.Address, "tcp://")
	switch {
	case k.Address != "" && !tcp && !strings.HasPrefix(k.Address, "unix://"):
		return fmt.Errorf("address is %q; want unix:///PATH or tcp://HOST:PORT", k.Address)
	case (k.Certificate == "") != (k.Key == ""):
		return errors.New("want both of certificate and key, or none")
	case !tcp && (k.CA != "" || k.Certificate != ""):
		return errors.New("ca, certificate and key are for an address tcp://HOST:PORT")
	case k.Network != "host" && k.Network != "none":
		return fmt.Errorf("network is %q; want host or none", k.Network)
	case k.Builds < 1 || k.Steps < 1 || k.Timeout < time.Second || k.Idle < time.Second || k.Processors < 0:
		return errors.New("want at least 1 of builds and steps, and at least 1s of timeout and idle")
	case k.Memory < 0 || k.Image < 1<<20 || k.Cache < 1<<20 || k.Log < 64<<10:
		return errors.New("want at least 1Mi of image and cache, and 64Ki of log")
	}
	return nil
}

// open returns the engine, which connects, or starts the private daemon, when it builds. here says that it is for this command
// alone, rather than for a server.
func (k BuildKitConfig) open(folder string, here bool, logger *slog.Logger) *builder.BuildKit {
	cfg := builder.BuildKitConfig{Address: k.Address, CA: k.CA, Cert: k.Certificate, Key: k.Key, Timeout: k.Timeout, Memory: int64(k.Memory),
		Processors: float64(k.Processors) / 100, Network: k.Network, MaxImage: int64(k.Image)}
	if k.Address == "" {
		cfg.Daemon, cfg.Missing = builder.FindDaemon(builder.DaemonConfig{Folder: filepath.Join(folder, "buildkit"), Cache: int64(k.Cache), Parallel: k.Steps, Idle: k.Idle, Here: here, Logger: logger})
	}
	return builder.NewBuildKit(cfg)
}
