package server

import (
	"context"

	"waybill/artifact"
)

// Webhooks are told what was decided.
type Webhooks interface {
	// Deliveries returns the newest messages, newest first.
	Deliveries(ctx context.Context) ([]artifact.Delivery, error)
}

// DeliveryList is the answer to GET /webhooks/deliveries, newest first.
type DeliveryList struct {
	Deliveries []artifact.Delivery `json:"deliveries"`
}

type deliveriesOutput struct{ Body DeliveryList }

func (a *API) deliveries(ctx context.Context, _ artifact.Principal, _ *struct{}) (*deliveriesOutput, error) {
	all, err := a.cfg.Webhooks.Deliveries(ctx)
	if err != nil {
		return nil, err
	}
	return &deliveriesOutput{Body: DeliveryList{Deliveries: orEmpty(all)}}, nil
}
