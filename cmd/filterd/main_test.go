package main

import (
	"log/slog"
	"net"
	"testing"

	"postern/appliance/config"
	"postern/filter"
)

// Every socket that was handed over under one name is served: a second address
// must not be one where clients wait for ever.
func TestOpenTakesAllThatIsHandedOver(t *testing.T) {
	var handed []net.Listener
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		handed = append(handed, l)
	}
	c := &config.Filterd{Domains: map[string]config.Domain{"company1.example": {}}}
	l := config.Listener{Name: "outside", Address: "127.0.0.1:0", Direction: "inbound", TLS: config.ListenerTLS{Mode: "off"}}
	log := slog.New(slog.DiscardHandler)
	_, got, err := open(filter.New(filter.Config{Log: log}), c, l, nil, nil, handed, log)
	if err != nil || len(got) != len(handed) {
		t.Errorf("handed over: got %d listeners, %v, want %d", len(got), err, len(handed))
	}
	_, got, err = open(filter.New(filter.Config{Log: log}), c, l, nil, nil, nil, log)
	if err != nil || len(got) != 1 {
		t.Fatalf("by address: got %d listeners, %v, want 1", len(got), err)
	}
	got[0].Close()
}
