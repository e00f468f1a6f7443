package scanner

// Working returns how many processes are at work.
func (c *Client) Working() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.working
}

// What Affordable counts with.
var (
	AffordableWith = affordable
	GroupMemory    = groupMemory
)
