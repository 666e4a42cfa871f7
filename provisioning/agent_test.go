package provisioning

import (
	"context"
	"errors"
	"os"
	"strings"
)

// fileAgent is an agent with one file: what "wanted.cf" holds is to stand in
// "main.cf", and "said" is what the agent says against it. A configuration
// whose name begins with "no" has none.
type fileAgent struct{}

func agentStub(config string) (Agent, error) {
	if strings.HasPrefix(config, "no") {
		return nil, nil
	}
	return fileAgent{}, nil
}

func (fileAgent) Changes(context.Context) ([]AgentChange, error) {
	wanted, err := os.ReadFile("wanted.cf")
	if err != nil {
		return nil, nil
	}
	have, err := os.ReadFile("main.cf")
	if err == nil && string(have) == string(wanted) {
		return nil, nil
	}
	if strings.HasPrefix(string(have), "foreign") {
		return nil, errors.New("main.cf: written by somebody else")
	}
	return []AgentChange{{Path: "main.cf", Text: string(wanted), Diff: "--- main.cf\n-" + string(have) + "+" + string(wanted), Tell: "reload it"}}, nil
}

func (fileAgent) Write(c AgentChange) error { return os.WriteFile(c.Path, []byte(c.Text), 0o644) }

func (fileAgent) Check(context.Context) ([]string, error) {
	said, err := os.ReadFile("said")
	if err != nil {
		return nil, nil
	}
	return strings.Fields(string(said)), nil
}

func (fileAgent) Examine(context.Context) []Examined {
	return []Examined{{"queue", fine, "empty", ""}}
}
