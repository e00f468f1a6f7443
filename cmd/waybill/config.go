package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"waybill/artifact"
	"waybill/mirror"
	"waybill/policy"
	"waybill/scanner"
	"waybill/server"
)

// Config is the whole configuration of waybill serve: a YAML file, each key of which may be set or overridden by a
// variable, WAYBILL_ and its path in capitals: database.url is WAYBILL_DATABASE_URL, externalURL is
// WAYBILL_EXTERNALURL. The zero value works. An unknown key or variable is refused, so that a misspelt limit is never
// silently no limit.
type Config struct {
	// Listen is the address to serve on. Default 127.0.0.1:8080: nobody else reaches it until you say so.
	Listen string `yaml:"listen"`
	// Data is the folder for blobs, keys, advisories and the private database. Default ./waybill-data.
	Data string `yaml:"data"`
	// ExternalURL is how clients reach the server, such as https://registry.example.com, when a proxy stands before
	// it. Empty: as each request says.
	ExternalURL string `yaml:"externalURL"`
	// HTTP bounds what slow clients hold.
	HTTP HTTPConfig `yaml:"http"`
	// Database says where PostgreSQL is.
	Database DatabaseConfig `yaml:"database"`
	// Registry holds the rules for repositories.
	Registry RegistryConfig `yaml:"registry"`
	// Policy bounds what may be excepted from policies.
	Policy PolicyConfig `yaml:"policy"`
	// Scanner bounds the scanner processes.
	Scanner ScannerConfig `yaml:"scanner"`
	// Layers bounds what a layer may be: one that passes a bound is denied, with the bound as the reason.
	Layers LayersConfig `yaml:"layers"`
	// Builder bounds builds.
	Builder BuilderConfig `yaml:"builder"`
	// Advisories says where the advisory database comes from, if not from `waybill db import`.
	Advisories AdvisoriesConfig `yaml:"advisories"`
	// VEX says whose statements about findings count.
	VEX VEXConfig `yaml:"vex"`
	// TrustRoots vouch for certificates that others sign with. In the file only.
	TrustRoots []TrustRootConfig `yaml:"trustRoots"`
	// Mirrors are registries whose content is served as read-only repositories, mirror/NAME/REPOSITORY. In the file only.
	Mirrors []MirrorConfig `yaml:"mirrors"`
	// Replication names registries that what is promoted is copied to. In the file only.
	Replication []ReplicationConfig `yaml:"replication"`
	// Identity says whom to believe who somebody is, besides Waybill's own tokens.
	Identity IdentityConfig `yaml:"identity"`
	// Public says what anybody may pull without signing in.
	Public PublicConfig `yaml:"public"`
	// Signer says what signs.
	Signer SignerConfig `yaml:"signer"`
	// Ledger says who watches the ledger.
	Ledger LedgerConfig `yaml:"ledger"`
	// Webhooks are told what was decided. In the file only.
	Webhooks []WebhookConfig `yaml:"webhooks"`
	// Log says what is logged.
	Log LogConfig `yaml:"log"`
}

// HTTPConfig bounds what slow clients, and those that vanished, hold.
type HTTPConfig struct {
	// HeaderTimeout is how long the header of a request may take to come. Default 10s.
	HeaderTimeout time.Duration `yaml:"headerTimeout"`
	// IdleTimeout is how long a connection may wait for its next request. Default 2m.
	IdleTimeout time.Duration `yaml:"idleTimeout"`
	// StallTimeout is how long a body may stall, on its way here or from here. Default 1m.
	StallTimeout time.Duration `yaml:"stallTimeout"`
	// MinimumRate is how many bytes a second a body must come with, or be taken with, on average of a stallTimeout,
	// such as 4Ki. Default 4Ki.
	MinimumRate policy.Quantity `yaml:"minimumRate"`
}

// limits are what a server takes.
func (h HTTPConfig) limits() server.Limits {
	return server.Limits{Header: h.HeaderTimeout, Idle: h.IdleTimeout, Stall: h.StallTimeout, Rate: int64(h.MinimumRate)}
}

// DatabaseConfig says where PostgreSQL is.
type DatabaseConfig struct {
	// URL is a libpq connection string, postgres://…. Empty: a private server in the data folder.
	URL string `yaml:"url"`
	// OwnerURL is that of the role that owns the tables, where URL's does not: it migrates at the start and is not used
	// after it. URL's role then cannot change what is append-only. See docs/ledger.md.
	OwnerURL string `yaml:"ownerURL"`
	// Connections is how many connections are held at most. Default 16.
	Connections int32 `yaml:"connections"`
	// Timeout is how long the database may take for a statement that a request waits for, before that is refused as from a
	// database that is away. What takes long by its nature (an audit, an export, a collection, a job) waits. Default 15s.
	Timeout time.Duration `yaml:"timeout"`
}

// RegistryConfig holds the rules for repositories.
type RegistryConfig struct {
	// MutableTags are patterns of tags that may be moved to another digest, where no document of kind Repositories
	// has others. Default latest, *-dev and dev-*. All other tags stay where they were first pushed.
	MutableTags []string `yaml:"mutableTags"`
	// GCGrace is how long garbage collection keeps what nothing needs: blobs that no manifest names, uploads that nobody
	// continues, files without a row. A push must not take longer from its first blob to its manifest. Default 1h.
	GCGrace time.Duration `yaml:"gcGrace"`
	// Quota is how many bytes the whole store may hold, such as 500Gi: a push that would bring more is refused. Default
	// none. Documents of kind Repositories have quotas of repositories.
	Quota policy.Quantity `yaml:"quota"`
}

// PolicyConfig bounds what may be excepted from policies.
type PolicyConfig struct {
	// WaiverLife is how long a waiver may last. Default 2160h, 90 days.
	WaiverLife time.Duration `yaml:"waiverLife"`
	// Waivers is how many may be in force at a time. Default 1000.
	Waivers int `yaml:"waivers"`
}

// ScannerConfig bounds the scanner processes.
type ScannerConfig struct {
	// Program is the path of waybill-scanner. Default: beside this program, else on PATH.
	Program string `yaml:"program"`
	// Processes is how many run at once at most. Default as many as there are processors and 1.5 GiB parts of memory,
	// at least 1.
	Processes int `yaml:"processes"`
	// Memory is the soft limit of each, in MiB. Default 400.
	Memory int64 `yaml:"memory"`
	// Timeout ends the inspection of a layer, or the matching of an image. Default 10m.
	Timeout time.Duration `yaml:"timeout"`
}

// LayersConfig bounds what a layer may be.
type LayersConfig struct {
	// Uncompressed is how large its tar may be. Default 20Gi.
	Uncompressed policy.Quantity `yaml:"uncompressed"`
	// Ratio is how many times its compressed size that may be, where it is more than RatioFrom. Default 100.
	Ratio int64 `yaml:"ratio"`
	// RatioFrom is how much may be all zeros. Default 3Gi.
	RatioFrom policy.Quantity `yaml:"ratioFrom"`
	// Entries is how many files, folders and links it may hold. Default 1000000.
	Entries int `yaml:"entries"`
	// Path is how many bytes a path may have. Default 4096, as many as Linux takes.
	Path int `yaml:"path"`
	// Depth is how many names a path may have. Default 255.
	Depth int `yaml:"depth"`
	// Names is how many bytes all paths and targets of links may have together, since they are held in memory. Default 256Mi.
	Names policy.Quantity `yaml:"names"`
}

// limits are the same as the scanner takes them.
func (l LayersConfig) limits() artifact.LayerLimits {
	return artifact.LayerLimits{Uncompressed: int64(l.Uncompressed), Ratio: l.Ratio, RatioFrom: int64(l.RatioFrom), Entries: l.Entries, Path: l.Path, Depth: l.Depth, Names: int64(l.Names)}
}

// AdvisoriesConfig says where the advisory database is pulled from.
type AdvisoriesConfig struct {
	// Source is HOST/REPOSITORY:TAG, such as ghcr.io/aquasecurity/trivy-db:2, or REPOSITORY:TAG of this registry, where
	// there is no way out. Empty: nothing is pulled by itself.
	Source string `yaml:"source"`
	// Java is likewise where the Java database comes from, such as ghcr.io/aquasecurity/trivy-java-db:1: what jars are called
	// that do not say it themselves. Empty: none is pulled by itself.
	Java string `yaml:"java"`
	// Interval is how often they are pulled. Default 6h.
	Interval time.Duration `yaml:"interval"`
	// Username to sign in with at the source; it needs one of the two that follow. Empty: nobody signs in.
	Username string `yaml:"username"`
	// PasswordFile holds the password, or a token; it is read at each sign-in.
	PasswordFile string `yaml:"passwordFile"`
	// PasswordVariable is the environment variable that holds it, where that suits better.
	PasswordVariable string `yaml:"passwordVariable"`
	// Insecure allows http:// and certificates that nobody vouches for.
	Insecure bool `yaml:"insecure"`
	// Key is the file of a public key (cosign.pub). With one, only a database that cosign signed with it is pulled.
	Key string `yaml:"key"`
	// MaxAge is how old a database may be before that is warned of. Default 72h.
	MaxAge time.Duration `yaml:"maxAge"`
}

// VEXConfig says whose OpenVEX documents count: those that are signed by Waybill's own key or one of these, and those that
// one of these principals pushed. Who else may push changes nothing about findings.
type VEXConfig struct {
	// Keys are files of public keys (cosign.pub).
	Keys []string `yaml:"keys"`
	// Pushers are principals as pushes record them, token:NAME/ID, such as token:security/*; * stands for any characters but /.
	Pushers []string `yaml:"pushers"`
}

// remote is the source's registry.
func (a AdvisoriesConfig) remote(host string) mirror.Remote {
	scheme := "https://"
	if a.Insecure {
		scheme = "http://"
	}
	return RemoteConfig{Name: host, URL: scheme + host, Username: a.Username, PasswordFile: a.PasswordFile, PasswordVariable: a.PasswordVariable, Insecure: a.Insecure}.remote()
}

// LogConfig says what is logged, to standard error.
type LogConfig struct {
	// Level is debug, info, warn or error. Default info.
	Level string `yaml:"level"`
	// Format is text or json. Default text.
	Format string `yaml:"format"`
}

// clientVariables are those that the other verbs read.
var clientVariables = []string{"WAYBILL_URL", "WAYBILL_TOKEN", "WAYBILL_ID_TOKEN"}

// errUsage marks what the caller got wrong; the exit status is then 2.
var errUsage = errors.New("wrong usage")

// loadConfig reads path, if one is given, then the variables in environ, then fills in the defaults.
func loadConfig(path string, environ []string) (Config, error) {
	var cfg Config
	var src []byte
	if path != "" {
		var err error
		src, err = os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return cfg, fmt.Errorf("%w: configuration file %s does not exist", errUsage, path)
		} else if err != nil {
			return cfg, fmt.Errorf("%w: read configuration: %w", errUsage, err)
		}
		if err := decodeConfig(src, &cfg); err != nil {
			return cfg, fmt.Errorf("%w: %s:%w", errUsage, path, err)
		}
	}
	if err := overlay(&cfg, environ); err != nil {
		return cfg, fmt.Errorf("%w: %w", errUsage, err)
	}
	cfg.setDefaults()
	if at, wrong := cfg.wrongRemote(); wrong != nil {
		return cfg, fmt.Errorf("%w: %s:%s %w", errUsage, path, position(src, at), wrong)
	}
	if at, wrong := cfg.wrongIdentity(); wrong != nil {
		return cfg, fmt.Errorf("%w: %s:%s %w", errUsage, path, position(src, at), wrong)
	}
	if at, wrong := cfg.wrongTrustRoot(); wrong != nil {
		return cfg, fmt.Errorf("%w: %s:%s %w", errUsage, path, position(src, at), wrong)
	}
	if at, wrong := cfg.wrongWebhook(); wrong != nil {
		return cfg, fmt.Errorf("%w: %s:%s %w", errUsage, path, position(src, at), wrong)
	}
	if at, wrong := cfg.wrongWitness(); wrong != nil {
		return cfg, fmt.Errorf("%w: %s:%s %w", errUsage, path, position(src, at), wrong)
	}
	if at, wrong := cfg.wrongSigner(); wrong != nil {
		return cfg, fmt.Errorf("%w: %s:%s %w", errUsage, path, position(src, at), wrong)
	}
	return cfg, cfg.check()
}

// position returns "line:column:" of a place in the configuration, such as $.mirrors[0].url, or of the nearest one
// around it that the file has.
func position(src []byte, at string) string {
	for at != "$" {
		path, err := yaml.PathString(at)
		if err != nil {
			break
		}
		if node, err := path.ReadNode(bytes.NewReader(src)); err == nil && node != nil {
			where := node.GetToken().Position
			return fmt.Sprintf("%d:%d:", where.Line, where.Column)
		}
		at = at[:strings.LastIndexAny(at, ".[")]
	}
	return ""
}

// decodeConfig refuses unknown and duplicate keys; its error begins with line:column.
func decodeConfig(src []byte, cfg *Config) error {
	err := yaml.UnmarshalWithOptions(src, cfg, yaml.Strict())
	if err == nil || len(strings.TrimSpace(string(src))) == 0 {
		return nil
	}
	// goccy writes "[line:column] what" and an excerpt; files and lines are written file:line:column: what.
	text := strings.TrimPrefix(yaml.FormatError(err, false, true), "[")
	return errors.New(strings.Replace(text, "]", ":", 1))
}

func (cfg *Config) setDefaults() {
	setDefault(&cfg.Listen, "127.0.0.1:8080")
	setDefault(&cfg.Data, "waybill-data")
	setDefault(&cfg.HTTP.HeaderTimeout, 10*time.Second)
	setDefault(&cfg.HTTP.IdleTimeout, 2*time.Minute)
	setDefault(&cfg.HTTP.StallTimeout, time.Minute)
	setDefault(&cfg.HTTP.MinimumRate, 4<<10)
	setDefault(&cfg.Database.Connections, 16)
	setDefault(&cfg.Database.Timeout, 15*time.Second)
	setDefault(&cfg.Scanner.Processes, scanner.Affordable())
	setDefault(&cfg.Scanner.Memory, 400)
	setDefault(&cfg.Scanner.Timeout, 10*time.Minute)
	cfg.Builder.BuildKit.setDefaults()
	setDefault(&cfg.Registry.GCGrace, time.Hour)
	setDefault(&cfg.Policy.WaiverLife, 90*24*time.Hour)
	setDefault(&cfg.Policy.Waivers, 1000)
	setDefault(&cfg.Advisories.Interval, 6*time.Hour)
	setDefault(&cfg.Advisories.MaxAge, 72*time.Hour)
	cfg.Identity.setDefaults()
	setDefault(&cfg.Log.Level, "info")
	setDefault(&cfg.Log.Format, "text")
	for i := range cfg.Mirrors {
		setDefault(&cfg.Mirrors[i].TTL, 5*time.Minute)
	}
	if cfg.Registry.MutableTags == nil {
		cfg.Registry.MutableTags = []string{"latest", "*-dev", "dev-*"}
	}
}

func setDefault[T comparable](v *T, to T) {
	if *v == *new(T) {
		*v = to
	}
}

func (cfg *Config) check() error {
	switch {
	case !slices.Contains([]string{"debug", "info", "warn", "error"}, cfg.Log.Level):
		return fmt.Errorf("%w: log.level is %q; want debug, info, warn or error", errUsage, cfg.Log.Level)
	case !slices.Contains([]string{"text", "json"}, cfg.Log.Format):
		return fmt.Errorf("%w: log.format is %q; want text or json", errUsage, cfg.Log.Format)
	case cfg.Scanner.Processes < 1 || cfg.Scanner.Memory < 100 || cfg.Scanner.Timeout < time.Second:
		return fmt.Errorf("%w: scanner wants at least 1 process, 100 MiB of memory and a timeout of 1s", errUsage)
	case cfg.Database.Timeout < 100*time.Millisecond:
		return fmt.Errorf("%w: database.timeout is %s; want at least 100ms", errUsage, cfg.Database.Timeout)
	case cfg.Layers.Ratio < 0 || cfg.Layers.Entries < 0 || cfg.Layers.Path < 0 || cfg.Layers.Depth < 0:
		return fmt.Errorf("%w: a bound below layers is negative; leave it out for its default", errUsage)
	case cfg.Policy.WaiverLife < time.Second || cfg.Policy.Waivers < 1:
		return fmt.Errorf("%w: policy wants a waiverLife of at least 1s, and at least 1 of waivers", errUsage)
	case min(cfg.HTTP.HeaderTimeout, cfg.HTTP.IdleTimeout, cfg.HTTP.StallTimeout) < 100*time.Millisecond || cfg.HTTP.MinimumRate < 1:
		return fmt.Errorf("%w: http wants timeouts of at least 100ms, and a minimumRate of at least 1", errUsage)
	case cfg.Advisories.Interval < time.Minute || cfg.Advisories.MaxAge < time.Hour:
		return fmt.Errorf("%w: advisories.interval is %s and maxAge %s; want at least 1m and 1h", errUsage, cfg.Advisories.Interval, cfg.Advisories.MaxAge)
	case (cfg.Advisories.Username != "") != (cfg.Advisories.PasswordFile != "" || cfg.Advisories.PasswordVariable != ""):
		return fmt.Errorf("%w: advisories wants a username and one of passwordFile and passwordVariable, or none of them", errUsage)
	case cfg.Builder.wrong() != nil:
		return fmt.Errorf("%w: %w", errUsage, cfg.Builder.wrong())
	case cfg.Registry.GCGrace < time.Second:
		return fmt.Errorf("%w: registry.gcGrace is %s; want at least 1s, and longer than any push", errUsage, cfg.Registry.GCGrace)
	case cfg.ExternalURL != "" && !strings.HasPrefix(cfg.ExternalURL, "http://") && !strings.HasPrefix(cfg.ExternalURL, "https://"):
		return fmt.Errorf("%w: externalURL is %q; want https://host[:port]", errUsage, cfg.ExternalURL)
	}
	return nil
}

// overlay sets from environ each key that a WAYBILL_ variable names.
func overlay(cfg *Config, environ []string) error {
	fields := map[string]reflect.Value{}
	collect(fields, "WAYBILL", reflect.ValueOf(cfg).Elem())
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "WAYBILL_") || slices.Contains(clientVariables, name) {
			continue
		}
		field, ok := fields[name]
		if !ok {
			return fmt.Errorf("variable %s names no configuration key; known are %s", name, strings.Join(sortedKeys(fields), ", "))
		}
		if err := set(field, value); err != nil {
			return fmt.Errorf("variable %s: %w", name, err)
		}
	}
	return nil
}

func collect(fields map[string]reflect.Value, prefix string, v reflect.Value) {
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Pointer { // a thing that is there or not is for the file
			continue
		}
		name := prefix + "_" + strings.ToUpper(v.Type().Field(i).Tag.Get("yaml"))
		switch kind := v.Field(i).Type(); {
		case kind.Kind() == reflect.Struct:
			collect(fields, name, v.Field(i))
		case kind.Kind() == reflect.Slice && kind.Elem().Kind() == reflect.Struct: // a list of things is for the file
		default:
			fields[name] = v.Field(i)
		}
	}
}

func set(field reflect.Value, value string) error {
	switch field.Interface().(type) {
	case string:
		field.SetString(value)
	case []string:
		field.Set(reflect.ValueOf(strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })))
	case time.Duration:
		d, err := time.ParseDuration(value)
		if err != nil {
			return err
		}
		field.SetInt(int64(d))
	case bool:
		b, err := strconv.ParseBool(value)
		if err != nil {
			return err
		}
		field.SetBool(b)
	case policy.Quantity:
		q, err := policy.ParseQuantity(value)
		if err != nil {
			return err
		}
		field.SetInt(int64(q))
	default:
		n, err := strconv.ParseInt(value, 10, field.Type().Bits())
		if err != nil {
			return err
		}
		field.SetInt(n)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
