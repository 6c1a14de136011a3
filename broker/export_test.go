package broker

import (
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Server returns the NATS server inside a node.
func (n *Node) Server() *server.Server { return n.server }

// Own returns the node's own connection.
func (n *Node) Own() *nats.Conn { return n.own }

// Secret returns the password of the node's own connections.
func (n *Node) Secret() string { return n.own.Opts.Password }

// Fail is what the server does when it cannot go on.
func (n *Node) Fail(format string, v ...any) { n.logged.Fatalf(format, v...) }

// Merged and Streams are tested directly.
func Merged(have, want jetstream.StreamConfig) (jetstream.StreamConfig, bool) {
	return merged(have, want)
}

var StreamsOf = streams
