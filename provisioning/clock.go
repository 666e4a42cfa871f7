package provisioning

import "context"

// watchClock keeps the mark until it is ended.
func watchClock(ctx context.Context, c *call) (any, error) {
	mark := c.get("mark")
	if mark == "" {
		mark = DefaultMark
	}
	return nil, c.Watch(ctx, mark)
}
