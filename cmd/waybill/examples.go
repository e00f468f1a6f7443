package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// examples are those of commands that need no more than a line or two, by the command's path.
var examples = map[string]string{
	"approvals":           "waybill approvals",
	"approvals revoke":    "waybill approvals revoke 12",
	"apply":               "waybill apply -f policies.yaml\ncat pipelines/*.yaml | waybill apply -f -",
	"attestations":        "waybill attestations shop/returns:v456",
	"bases":               "waybill bases\nwaybill bases shop/returns:v456\nwaybill bases --stale",
	"build cancel":        "waybill build cancel AET2JELFYMY6VGTYZUWWF6DCWM",
	"build list":          "waybill build list --repository shop/returns --limit 10",
	"build logs":          "waybill build logs AET2JELFYMY6VGTYZUWWF6DCWM",
	"db import":           "waybill db import examples/advisories/db.tar.gz",
	"db history":          "waybill db history",
	"db status":           "waybill db status",
	"environment retire":  "waybill environment retire hall-3 --reason 'the hall is closed'",
	"fsck":                "waybill fsck\nwaybill fsck --quarantine",
	"gc":                  "waybill gc --dry-run\nwaybill gc",
	"inspect":             "waybill inspect shop/returns:v456\nwaybill inspect shop/returns@18d8bca45cf4 --tree=3",
	"key ledger":          "waybill key ledger > ledger.pub",
	"key list":            "waybill key list",
	"key public":          "waybill key public > waybill.pub\nwaybill key public --id 5abde160e7f2 > older.pub",
	"login":               "waybill login http://127.0.0.1:8080\nwaybill login https://registry.example.com --device",
	"logout":              "waybill logout",
	"policy history":      "waybill policy history baseline",
	"policy list":         "waybill policy list",
	"policy show":         "waybill policy show baseline --version 3\nwaybill policy show default --kind pipeline",
	"recall":              "waybill recall shop/returns@18d8bca45cf4 --reason 'leaks memory' --advisory https://example.com/advisories/7",
	"release list":        "waybill release list",
	"release promote":     "waybill release promote shop-2026.47 production --dry-run\nwaybill release promote shop-2026.47 production --wait --timeout 4h",
	"release show":        "waybill release show shop-2026.47",
	"replication status":  "waybill replication status returns",
	"rollback":            "waybill rollback returns production --reason 'v456 is slow'\nwaybill rollback returns production --to v454",
	"scan":                "waybill scan shop/returns:v456\nwaybill scan shop/returns:v456 -o json | jq '.findings[].id'",
	"serve":               "waybill serve\nwaybill serve --data /var/lib/waybill --listen 127.0.0.1:8080\nwaybill serve --config waybill.yaml",
	"show":                "waybill show shop/returns:v456\nwaybill show shop/returns@18d8bca45cf4",
	"token list":          "waybill token list",
	"token revoke":        "waybill token revoke 49d7e50e4fa3",
	"verdict":             "waybill verdict shop/returns:v456",
	"waiver list":         "waybill waiver list --all",
	"waiver revoke":       "waybill waiver revoke 7",
	"webhooks deliveries": "waybill webhooks deliveries",
}

// addExamples gives every command below one an example, and one that groups others the first of each.
func addExamples(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		addExamples(cmd)
		path := strings.TrimPrefix(cmd.CommandPath(), "waybill ")
		if lines, ok := examples[path]; ok && cmd.Example == "" {
			cmd.Example = "  " + strings.ReplaceAll(lines, "\n", "\n  ")
		}
		if cmd.Example != "" || !cmd.HasSubCommands() {
			continue
		}
		var first []string
		for _, child := range cmd.Commands() {
			line, _, _ := strings.Cut(child.Example, "\n")
			first = append(first, line)
		}
		cmd.Example = strings.Join(first, "\n")
	}
}
