package main

import (
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
	// Database says where PostgreSQL is.
	Database DatabaseConfig `yaml:"database"`
	// Registry holds the rules for repositories.
	Registry RegistryConfig `yaml:"registry"`
	// Scanner bounds the scanner processes.
	Scanner ScannerConfig `yaml:"scanner"`
	// Log says what is logged.
	Log LogConfig `yaml:"log"`
}

// DatabaseConfig says where PostgreSQL is.
type DatabaseConfig struct {
	// URL is a libpq connection string, postgres://…. Empty: a private server in the data folder.
	URL string `yaml:"url"`
	// Connections is how many connections are held at most. Default 16.
	Connections int32 `yaml:"connections"`
}

// RegistryConfig holds the rules for repositories.
type RegistryConfig struct {
	// MutableTags are patterns of tags that may be moved to another digest. Default latest, *-dev and dev-*. All
	// other tags stay where they were first pushed.
	MutableTags []string `yaml:"mutableTags"`
}

// ScannerConfig bounds the scanner processes.
type ScannerConfig struct {
	// Program is the path of waybill-scanner. Default: beside this program, else on PATH.
	Program string `yaml:"program"`
	// Processes is how many run at once at most. Default 2.
	Processes int `yaml:"processes"`
	// Memory is the soft limit of each, in MiB. Default 400.
	Memory int64 `yaml:"memory"`
	// Timeout ends the inspection of a layer, or the matching of an image. Default 10m.
	Timeout time.Duration `yaml:"timeout"`
}

// LogConfig says what is logged, to standard error.
type LogConfig struct {
	// Level is debug, info, warn or error. Default info.
	Level string `yaml:"level"`
	// Format is text or json. Default text.
	Format string `yaml:"format"`
}

// clientVariables are those that the other verbs read.
var clientVariables = []string{"WAYBILL_URL", "WAYBILL_TOKEN"}

// errUsage marks what the caller got wrong; the exit status is then 2.
var errUsage = errors.New("wrong usage")

// loadConfig reads path, if one is given, then the variables in environ, then fills in the defaults.
func loadConfig(path string, environ []string) (Config, error) {
	var cfg Config
	if path != "" {
		src, err := os.ReadFile(path)
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
	return cfg, cfg.check()
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
	setDefault(&cfg.Database.Connections, 16)
	setDefault(&cfg.Scanner.Processes, 2)
	setDefault(&cfg.Scanner.Memory, 400)
	setDefault(&cfg.Scanner.Timeout, 10*time.Minute)
	setDefault(&cfg.Log.Level, "info")
	setDefault(&cfg.Log.Format, "text")
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
		name := prefix + "_" + strings.ToUpper(v.Type().Field(i).Tag.Get("yaml"))
		if v.Field(i).Kind() == reflect.Struct {
			collect(fields, name, v.Field(i))
		} else {
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
