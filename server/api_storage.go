package server

import (
	"context"

	"github.com/danielgtaylor/huma/v2"

	"waybill/artifact"
	"waybill/registry"
)

// CollectRequest asks for a garbage collection.
type CollectRequest struct {
	DryRun bool `json:"dryRun,omitempty" doc:"Remove nothing, and say what would be removed"`
}

// CheckRequest asks for a check of every blob.
type CheckRequest struct {
	Quarantine bool `json:"quarantine,omitempty" doc:"Put what is damaged into quarantine: nobody is served it, and its next push repairs it"`
}

// CheckEvent is one line of a check's answer. The last line has Result or Problem, and no other does.
type CheckEvent struct {
	Progress *registry.CheckProgress `json:"progress,omitempty"`
	Found    *registry.Finding       `json:"found,omitempty"`
	Result   *registry.Checked       `json:"result,omitempty"`
	Problem  *Problem                `json:"problem,omitempty"`
}

type (
	collectInput struct {
		stream
		Body CollectRequest
	}
	collectOutput struct{ Body registry.Collected }
	checkInput    struct {
		stream
		Body CheckRequest
	}
	checkOutput struct {
		Body func(huma.Context)
	}
)

func (a *API) collectGarbage(ctx context.Context, p artifact.Principal, in *collectInput) (*collectOutput, error) {
	in.takeTime()
	done, err := a.cfg.Collector.Collect(ctx, p, in.Body.DryRun)
	if err != nil {
		return nil, err
	}
	return &collectOutput{Body: done}, nil
}

// checkBlobs answers 200 with the first event, so what fails later is told in the last line.
func (a *API) checkBlobs(_ context.Context, p artifact.Principal, in *checkInput) (*checkOutput, error) {
	return &checkOutput{Body: func(hc huma.Context) {
		in.takeTime()
		events := &eventWriter{hc: hc}
		done, err := a.cfg.Checker.Check(hc.Context(), p, in.Body.Quarantine, registry.CheckReport{
			Found:    func(f registry.Finding) { events.send(CheckEvent{Found: &f}) },
			Progress: func(at registry.CheckProgress) { events.send(CheckEvent{Progress: &at}) },
		})
		if err != nil {
			a.endStream(hc, events, err, func(p *Problem) any { return CheckEvent{Problem: p} })
			return
		}
		events.send(CheckEvent{Result: &done})
	}}, nil
}
