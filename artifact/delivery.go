package artifact

import "time"

// DeliveryState is how far a message to a webhook is.
type DeliveryState string

// The states.
const (
	DeliveryWaiting   DeliveryState = "waiting"
	DeliveryDelivered DeliveryState = "delivered"
	DeliveryFailed    DeliveryState = "failed"  // and it is tried again
	DeliveryDropped   DeliveryState = "dropped" // and it is not
)

// Delivery is a message to a webhook. Its ID is the same however often it is sent.
type Delivery struct {
	ID        string        `json:"id"`
	Webhook   string        `json:"webhook"`
	Type      string        `json:"type"`
	Subject   string        `json:"subject,omitempty"`
	State     DeliveryState `json:"state"`
	Attempts  int           `json:"attempts"`
	Status    int           `json:"status,omitempty"` // of the last answer
	Problem   string        `json:"problem,omitempty"`
	CreatedAt time.Time     `json:"createdAt"`
	Since     time.Time     `json:"since"`
	Body      string        `json:"-"`
}
