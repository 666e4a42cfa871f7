package provisioning

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"postern/filter/accounts"
)

// accountFile is where accounts are kept, or an error where that is elsewhere.
func (c *call) accountFile() (string, error) {
	s, err := c.site()
	if err != nil {
		return "", err
	}
	if s.Accounts == "" {
		return "", no(`set source = "file" in [accounts] of filterd.toml`, "accounts are not kept in a file here")
	}
	return s.Accounts, nil
}

// password is what a person types twice, or the first line of standard input.
// It is never an argument.
func (c *call) password() (string, error) {
	if c.Secret == nil {
		line, err := bufio.NewReader(io.LimitReader(c.Stdin, maxSecret)).ReadString('\n')
		if err != nil && (!errors.Is(err, io.EOF) || line == "") {
			return "", misuse("give it in one line of standard input, or run the command at a terminal", "no password was given")
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	first, err := c.Secret("password: ")
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	again, err := c.Secret("password, once more: ")
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	if first != again {
		return "", no("type the same password twice", "the two passwords differ; nothing was done")
	}
	return first, nil
}

func accountAdd(_ context.Context, c *call) (any, error) {
	file, err := c.accountFile()
	if err != nil {
		return nil, err
	}
	senders, err := accounts.Senders(c.text["sender"])
	if err != nil {
		return nil, misuse("a sender is an address, or *@domain for all of a domain", "%w", err)
	}
	if len(senders) == 0 {
		return nil, misuse("`--sender alice@company1.example`", "an account without senders could send nothing")
	}
	if c.dry() {
		return c.did("add account %s to %s", c.args[0], file), nil
	}
	password, err := c.password()
	if err != nil {
		return nil, err
	}
	if err := accounts.Add(file, c.args[0], password, senders, !c.on["no-scram"]); err != nil {
		return nil, err
	}
	return c.did("add account %s to %s", c.args[0], file), nil
}

func accountPassword(_ context.Context, c *call) (any, error) {
	file, err := c.accountFile()
	if err != nil {
		return nil, err
	}
	if c.dry() {
		return c.did("change the password of %s", c.args[0]), nil
	}
	password, err := c.password()
	if err != nil {
		return nil, err
	}
	if err := accounts.SetPassword(file, c.args[0], password); err != nil {
		return nil, err
	}
	return c.did("change the password of %s", c.args[0]), nil
}

func accountRemove(_ context.Context, c *call) (any, error) {
	file, err := c.accountFile()
	if err != nil {
		return nil, err
	}
	if err := c.confirm("account "+c.args[0]+" is removed", c.args[0]); err != nil {
		return nil, err
	}
	if !c.dry() {
		if err := accounts.Remove(file, c.args[0]); err != nil {
			return nil, err
		}
	}
	return c.did("remove account %s", c.args[0]), nil
}

// accountList are the accounts of the file, without their secrets.
type accountList struct {
	Accounts []accountLine `json:"accounts"`
}

type accountLine struct {
	Name    string   `json:"name"`
	SCRAM   bool     `json:"scram"`
	Senders []string `json:"senders"`
}

func (l accountList) text(w io.Writer) {
	rows := make([][]string, len(l.Accounts))
	for i, a := range l.Accounts {
		mechanisms := "password"
		if a.SCRAM {
			mechanisms = "password, scram"
		}
		rows[i] = []string{a.Name, mechanisms, strings.Join(a.Senders, " ")}
	}
	table(w, []string{"ACCOUNT", "LOGIN", "SENDERS"}, rows)
}

func accountsOf(_ context.Context, c *call) (any, error) {
	file, err := c.accountFile()
	if err != nil {
		return nil, err
	}
	entries, err := accounts.List(file)
	if err != nil {
		return nil, err
	}
	list := accountList{Accounts: []accountLine{}}
	for _, e := range entries {
		senders := e.Senders
		if senders == nil {
			senders = []string{}
		}
		list.Accounts = append(list.Accounts, accountLine{e.Name, e.SCRAM(), senders})
	}
	return list, nil
}
