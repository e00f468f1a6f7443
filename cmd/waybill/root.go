package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// newRoot returns the whole command line; server is the command that runs one.
func newRoot(server *cobra.Command) *cobra.Command {
	root := &cobra.Command{
		Use:   "waybill",
		Short: "Build once, check, scan, sign and promote container images by digest",
		Long: `Waybill is a registry that checks images as they arrive, scans and signs them, and records which digest was
promoted to which environment, so that a deployer can pull nothing else.

Commands talk to the server at WAYBILL_URL with WAYBILL_TOKEN, or to the one that "waybill login" stored, or to
` + defaultURL + `. Exit status: 0 done, 1 refused or not found (the reasons are on stderr), 2 wrong usage.`,
		Version:           version,
		SilenceUsage:      true,
		SilenceErrors:     true, // main prints them
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w\nSee `%s --help`", err, cmd.CommandPath())
	})
	root.AddGroup(&cobra.Group{ID: "use", Title: "Images and promotion:"}, &cobra.Group{ID: "run", Title: "Running it:"})
	for _, cmd := range []*cobra.Command{newBuild(), newBases(), newInspect(), newVerdict(), newScan(), newSBOM(), newProvenance(), newAttestations(), newCVE(), newCompare(), newShow(), newPromote(), newRollback(),
		newApprove(), newApprovals(), newRelease(), newEnvironment(), newWebhooks(),
		newRecall(), newStatus(), newHistory(), newPulls(), newVerify()} {
		cmd.GroupID = "use"
		root.AddCommand(cmd)
	}
	for _, cmd := range []*cobra.Command{server, newLogin(), newLogout(), newToken(), newApply(), newPolicy(), newWaiver(), newStorage(), newRetention(), newDatabase(), newReplication(), newGC(), newFsck(), newAudit(), newWitness(), newExport(), newKey()} {
		cmd.GroupID = "run"
		root.AddCommand(cmd)
	}
	addExamples(root)
	tagFailures(root)
	return root
}

// execute runs the command line. What cobra itself finds wrong is said as what commands find is, and with where to read on.
func execute(ctx context.Context, root *cobra.Command) error {
	cmd, err := root.ExecuteContextC(ctx)
	var (
		usage  usageError
		failed failure
	)
	if err == nil || errors.As(err, &usage) || errors.As(err, &failed) {
		return err
	}
	if names, ok := strings.CutPrefix(err.Error(), "required flag(s) "); ok {
		flags := strings.Split(strings.TrimSuffix(names, " not set"), ", ")
		verb := "is"
		for i := range flags {
			flags[i] = "--" + strings.Trim(flags[i], `"`)
		}
		if len(flags) > 1 {
			verb = "are"
		}
		return usagef("%s: %s %s missing\nUsage: %s", cmd.CommandPath(), strings.Join(flags, ", "), verb, cmd.UseLine())
	}
	return usagef("%w\nSee `%s --help`", err, cmd.CommandPath())
}

// failure is an error of a command that was used rightly.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// tagFailures marks what commands return, so that whatever cobra itself says (an unknown command, a missing flag) is
// known as wrong usage.
func tagFailures(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if err := run(cmd, args); err != nil {
				return failure{err}
			}
			return nil
		}
	} else if cmd.Run == nil && cmd.HasParent() {
		// A command that only groups others says what they are, and that none was named.
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %.80q for %q\nSee `%s --help`", args[0], cmd.CommandPath(), cmd.CommandPath())
			}
			return usagef("%s wants a command\nSee `%s --help`", cmd.CommandPath(), cmd.CommandPath())
		}
	}
	for _, child := range cmd.Commands() {
		tagFailures(child)
	}
}

// usageError is wrong usage that a command found itself.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitCode maps what Execute returned to the exit status that scripts rely on: 0 done, 1 refused or not found, 2
// wrong usage.
func exitCode(err error) int {
	var (
		usage  usageError
		failed failure
	)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage) || errors.As(err, &usage) || !errors.As(err, &failed):
		return 2
	}
	return 1
}

// exactly takes as many arguments as it names, and says which are missing.
func exactly(n int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < n:
			return usagef("%s: %s is missing\nUsage: %s", cmd.CommandPath(), names[len(args)], cmd.UseLine())
		case len(args) > n:
			return usagef("%s: %.80q is one argument too many\nUsage: %s", cmd.CommandPath(), args[n], cmd.UseLine())
		}
		return nil
	}
}

// upTo takes at most n arguments.
func upTo(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return usagef("%s: %.80q is one argument too many\nUsage: %s", cmd.CommandPath(), args[n], cmd.UseLine())
		}
		return nil
	}
}
