// Command returns is a small service to build, promote and deploy: the same artifact everywhere, its topology from a YAML
// file outside of it.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/goccy/go-yaml"
)

// config is the topology, which differs by environment; the image does not.
type config struct {
	Listen      string `yaml:"listen"`      // address to serve on
	Environment string `yaml:"environment"` // where this runs, for people
	Warehouse   string `yaml:"warehouse"`   // URL of the service that takes goods back
}

func load(path string) (config, error) {
	c := config{Listen: ":8080", Environment: "nowhere"}
	src, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	return c, yaml.UnmarshalWithOptions(src, &c, yaml.Strict())
}

func main() {
	path := os.Getenv("RETURNS_CONFIG")
	if path == "" {
		path = "/etc/returns/config.yaml"
	}
	c, err := load(path)
	if err != nil {
		log.Fatalf("returns: configuration: %v", err)
	}
	http.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "returns, in %s; goods go to %s\n", c.Environment, c.Warehouse)
	})
	server := &http.Server{Addr: c.Listen, ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServe())
}
