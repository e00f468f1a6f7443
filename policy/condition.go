package policy

import (
	"fmt"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// Condition is a CEL expression over variables that the caller names, under the bounds of the rule `expression`.
type Condition struct {
	program cel.Program
	names   map[string]bool
}

// NewCondition compiles an expression over variables of any type; truth says of what it is to be true. Its error says
// where in the expression it is.
func NewCondition(text, truth string, variables ...string) (Condition, error) {
	if text == "" || len(text) > maxExpression {
		return Condition{}, fmt.Errorf("the expression has %d bytes; want 1 to %d", len(text), maxExpression)
	}
	options := bounds()
	for _, name := range variables {
		kind := cel.DynType
		if name == "now" {
			kind = cel.TimestampType
		}
		options = append(options, cel.Variable(name, kind))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return Condition{}, err
	}
	program, names, err := compileBool(env, text, truth, truth)
	return Condition{program, names}, err
}

// Names reports whether the expression asks for a variable.
func (c Condition) Names(variable string) bool { return c.names[variable] }

// Holds reports whether the expression is true; one that cannot be evaluated is not, and its error says why.
func (c Condition) Holds(variables map[string]any) (bool, error) {
	if c.program == nil {
		return false, fmt.Errorf("it was not compiled")
	}
	result, _, err := c.program.Eval(variables)
	return err == nil && result == types.True, err
}
