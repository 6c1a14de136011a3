// Package broker runs an embedded NATS node that carries sealed messages and
// cannot open them. It knows identities and the signed policy, no keys: a test
// on its imports keeps it so.
//
//	node, err := broker.Start(ctx, broker.Config{
//		Identity:  src,                                // spiffe://<trust domain>/broker/<node>
//		Policy:    signed,                             // from policy.Sign
//		Operators: []identity.Fingerprint{fingerprint}, // whose policies are accepted
//		StoreDir:  "/var/lib/sealbus",
//	})
//	if err != nil { … }
//	defer node.Shutdown(ctx)
//
// Every client speaks mutual TLS 1.3 from the first byte. Who it is stands in
// its certificate, what it may do in the policy; there are no passwords. When
// the certificate expires the connection ends. A client with no rights under
// the policy, because it is unknown or revoked, is not let in.
//
// # Accounts
//
// Streams and buckets live in the account STORE, agents in AGENTS. A NATS
// server checks which subject a client publishes to, never which subject it
// asks the answer to be sent to, and JetStream answers whatever it is sent. In
// one account an agent could therefore overwrite any entry of any stream by
// naming it as reply subject. So AGENTS sees of STORE only the subjects that it
// imports, and an answer that comes back through an import does not go out
// through another; see accounts.go for how this is made certain. Agents have no
// right to make a consumer: its delivery subject could be that of a stream.
//
// What is stored is not trusted. Everything that agents believe is signed or
// sealed by other agents or by the operator, and the node could not change it
// unseen. It can refuse service: drop, delay and hide.
//
// # Queues
//
// A queue has five streams: SB_TASK_<queue> is a log from which four durable
// consumers, one a priority, hand out tasks; SB_RESULT_<queue> and SB_DEAD_<queue>
// take one message a task and refuse a second; SB_CONTROL_<queue> keeps the last
// word under each subject, slots among them, which workers write by compare-and-set; in SB_DELAY_<queue> tasks wait for their time. Workers
// pull and acknowledge through imports. A worker can settle every task that is
// out in its own queue, also another worker's, and none of another queue.
//
// Nobody but the node writes to SB_DELAY_<queue>. A stream with schedules does
// what a message's headers say: whoever may write to it can empty it, remove any
// schedule and overwrite or copy any message, whatever subject it may publish to.
// So agents ask the node, which passes on a time and a target and nothing else;
// see [ServeQueues]. Likewise agents ask the node how a queue stands, and enqueuers
// have it purge dead letters: no agent may look at a stream or take anything out.
//
// What queues no longer need is taken out every minute; see [Trim]. While a task
// is not settled nothing that came after it goes, nor its result. A full log
// refuses new tasks.
//
// # Durability
//
// By default every write is synced to disk before it is acknowledged. Streams
// are made and brought up to date by [Provision], which never deletes anything.
package broker
