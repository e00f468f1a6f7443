package server

// commands are what does an operation on the command line, by the operation's id. They are in the OpenAPI document, as
// x-waybill-command, so that whoever reads it finds the one from the other; cmd/waybill has a test that each is there.
var commands = map[string]string{
	"keys":               "waybill key ledger",
	"keys-pem":           "waybill key public",
	"list-signing-keys":  "waybill key list",
	"rotate-signing-key": "waybill key rotate --reason TEXT",
	"revoke-signing-key": "waybill key revoke KEY --reason TEXT",

	"exchange-token": "waybill login --workload URL",
	"create-token":   "waybill token create --role ROLE",
	"list-tokens":    "waybill token list",
	"revoke-token":   "waybill token revoke ID",

	"apply-documents":  "waybill apply -f FILE",
	"list-documents":   "waybill policy list",
	"get-document":     "waybill policy show NAME",
	"document-history": "waybill policy history NAME",
	"test-policy":      "waybill policy test FILE IMAGE",
	"policy-impact":    "waybill policy impact FILE",
	"create-waiver":    "waybill waiver create --rule RULE --repository GLOB --expires 72h --reason TEXT",
	"list-waivers":     "waybill waiver list",
	"revoke-waiver":    "waybill waiver revoke ID",

	"import-advisories": "waybill db import FILE",
	"pull-advisories":   "waybill db pull",
	"advisories":        "waybill db status",
	"advisory-history":  "waybill db history",

	"inspect":      "waybill inspect REF",
	"verdict":      "waybill verdict REF",
	"scan":         "waybill scan REF",
	"sbom":         "waybill sbom REF",
	"attestations": "waybill attestations REF",
	"provenance":   "waybill provenance REF",
	"cve":          "waybill cve ID",
	"show":         "waybill show REF",
	"verify":       "waybill verify REF --environment ENVIRONMENT",
	"tag-history":  "waybill history REF",

	"promote":            "waybill promote SERVICE VERSION ENVIRONMENT",
	"roll-back":          "waybill rollback SERVICE ENVIRONMENT",
	"recall":             "waybill recall REF --reason TEXT",
	"approve":            "waybill approve SERVICE VERSION ENVIRONMENT",
	"list-approvals":     "waybill approvals",
	"revoke-approval":    "waybill approvals revoke ID",
	"retire-environment": "waybill environment retire ENVIRONMENT --reason TEXT",
	"create-release":     "waybill release create NAME SERVICE@VERSION",
	"list-releases":      "waybill release list",
	"get-release":        "waybill release show NAME",
	"promote-release":    "waybill release promote NAME ENVIRONMENT",
	"webhook-deliveries": "waybill webhooks deliveries",
	"status":             "waybill status",
	"history":            "waybill history SERVICE",
	"replications":       "waybill replication status",

	"export": "waybill export REF -o FILE",
	"pulls":  "waybill pulls REF",
	"audit":  "waybill audit",

	"storage":         "waybill storage",
	"storage-runs":    "waybill storage runs",
	"retention":       "waybill retention --dry-run",
	"collect-garbage": "waybill gc --dry-run",
	"check-blobs":     "waybill fsck",

	"build":        "waybill build -t REF DIR",
	"list-builds":  "waybill build list",
	"follow-build": "waybill build logs ID",
	"cancel-build": "waybill build cancel ID",
	"bases":        "waybill bases",
}
