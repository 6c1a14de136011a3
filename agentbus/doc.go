// Package agentbus is what agents use: publish and subscribe, request and reply, sealed end to end.
//
// An agent needs a certificate that says who it is and the fingerprint of the operator's policy key. Connect makes
// the one connection, over mutual TLS 1.3 to a broker whose ID it verifies, and takes the operator's policy from
// there; the policy says who may publish, subscribe, ask and answer where. Nothing that the broker sees, stores or
// says is believed without a signature, and nothing of a message is readable to it but subjects, names, sizes and
// times.
//
//	src, err := identity.LoadFiles("planner.pem", "planner-key.pem", "ca.pem")
//	ring, err := keyring.Open(dir, keyring.Passphrase(phrase), operator)
//	bus, err := agentbus.Connect(ctx, agentbus.Config{Servers: servers, Identity: src, Keyring: ring})
//	defer bus.Close()
//
//	sub, err := bus.Subscribe(ctx, "prices.>", func(ctx context.Context, m *agentbus.Message) error { … })
//	err = bus.Publish(ctx, "prices.eu.de", payload, agentbus.ContentType("application/json"))
//
//	srv, err := bus.Serve(ctx, func(ctx context.Context, r *agentbus.Message) ([]byte, error) { … })
//	reply, err := bus.Request(ctx, "bob", payload)
//
//	task, err := bus.Enqueue(ctx, "summarise", payload, agentbus.MaxAttempts(5))
//	worker, err := bus.Work(ctx, "summarise", func(ctx context.Context, t *agentbus.Task) ([]byte, error) { … })
//	result, err := task.Result(ctx)
//
// # What a Message is
//
// A handler is only given what passed every check: its sender is who Message.Sender says, the policy lets that agent
// send this here, it was sealed for this subject and this receiver, within the topic's max_age, nothing in it has
// been changed, and this subscription has not been given it before. On an unsigned topic any of its readers can
// speak as any of its writers; elsewhere nobody can.
//
// # Delivery
//
// Topics, requests and replies are delivered at most once. Publish on a topic that is not retained hands the message
// over; Flush waits until the broker has it, and tells what went wrong. Publish on a retained topic returns when
// the broker has acknowledged that the message is on its disk, and asks again for an acknowledgement that did not come;
// the broker stores it once. PublishAsync does not wait for that, and returns a Publication that tells. What of this a
// subscriber gets live is at most once all the same.
//
// Messages of one sender arrive in the order in which its calls of Publish followed one another, over all subjects
// of a subscription. Between senders there is no order. Where the publisher's connection breaks while it sends to a retained
// topic, a live subscriber may get the later part of what was sent together before the earlier; the stream has it in order. Where a sender's key changes and the earlier one is still on
// its way to this receiver, later messages wait for it for up to half a second.
//
// A subscription to a whole topic ("prices.>") counts what is missing in its senders' sessions as Stats.Lost: what
// the broker or the network lost, what was dropped here before it was opened, and what was rejected. A hole is
// counted once 1,024 later frames of the session have come, so that what merely comes late is not; that nothing
// is missing at the end of a session cannot be known.
//
// On retained topics and in the logs of queues senders count what they send, for who reads the streams later: a session begins with a
// note that says how the one before ended, numbers whose messages could not be stored are declared void, after a minute without a message a
// note says how many there were, and Close says that there are no more. Handlers see nothing of these notes, which travel
// as messages of their own. So what the broker keeps out of a stream, or takes out of it, leaves a hole there. With a state directory sessions are chained over
// restarts. SPEC.md, section 8.1, says what can be concluded, and what cannot.
//
// # Gathering
//
// What is published to a topic while earlier messages are being sealed and sent is gathered. Messages that follow one
// another to the same subject, with the same expiry, share a frame of up to 128 KiB: one seal and one NATS message. All
// frames that leave together share one signature, and on a retained topic one acknowledgement and one sync of the
// broker's disk. So what signing and syncing cost is paid the less often the busier a sender is, and nothing waits for
// company: a message to a topic where nothing is under way leaves at once. A frame has one subject, which the broker
// routes by; a sender that changes the subject with every message shares signatures and no frames.
//
// 512 KiB of a topic's messages, at most 16,384, wait to be sealed; then Publish blocks until there is room. A receiver
// opens frames on as many cores as there are, verifies each signature once, and hands messages on in their order.
//
// Requests and replies are not gathered.
//
// # Handlers
//
//   - The handler of Subscribe is called for one message at a time, those of Serve and ServeService for
//     Concurrency requests at a time.
//   - One that returns an error: Stats.HandlerErrors, Config.OnError, and a line in the log that does not have the
//     error's text. The message is not delivered again. Of a request, the requester gets the text as a RemoteError.
//   - One that panics, or calls runtime.Goexit: Stats.Panics and a line in the log; a panic goes to OnError too. The
//     subscription goes on. The requester is told that the handler failed, after Goexit nothing.
//   - One that is slow: up to Config.Buffer messages, and 64 MiB of them, wait. What comes then is dropped:
//     Stats.Dropped, and a line in the log for the first. A requester gets ErrOverloaded. The other subscriptions
//     of the bus do not notice.
//   - More frames than can be opened: up to 65,536 frames, and 64 MiB of them, wait for that; what comes then is
//     Dropped too.
//   - Its context ends when the bus or the subscription gives up waiting for it, that of a request also when nobody
//     waits for the answer any more. With it the handler can publish and ask even while Close waits for it.
//   - Stop and Close wait for handlers; a handler that calls them waits for itself, for 30 seconds. It calls them in a
//     goroutine.
//
// # Tasks
//
// Enqueue returns when the broker has the task on its disk. From then on it runs until it has succeeded or is declared dead,
// whatever becomes of the enqueuer, of workers and of the broker. Payload, kind, headers and terms (Delay, At, Deadline, Timeout,
// MaxAttempts, Backoff, Priority) are sealed for the queue's workers, and what workers say of a task for its enqueuers. Whoever may
// enqueue may ask for any task's Result by its id, in another process too, and read the dead letters.
//
//   - A task is worked on at least once, and one result of it is recorded: the first. A later one is dropped and counted as
//     WorkStats.Late. Handlers whose effects must not come twice need the task's ID for that.
//   - A worker has a task to itself for 30 seconds, its lease, and renews that as long as the task is with it. One that dies leaves
//     its tasks to others when their leases are over. That is no attempt: what counts are attempts of which a worker has said that they
//     failed.
//   - A worker that loses the broker goes on. A result waits for the connection, for up to Config.RequestTimeout. Where the lease runs
//     out meanwhile, the handler's context ends, another may be at the task already, and this handler's error counts for nothing; its
//     result is recorded if it is there first.
//   - An attempt that fails is tried again after its backoff, half of which is random. A task that has failed as often as it may, has not
//     begun by its Deadline, or whose handler returned Cancel is dead: its Result is a *TaskError, and its dead letter keeps why, with
//     all of the task. Revive puts it back, as a new task with an id of its own.
//   - What fails a check is no task. It is rejected as any frame is, and becomes a dead letter of its own, whose reason is DeadUnopenable.
//     A task whose key or whose sender's card is not here goes back to the queue and waits: it is not dead.
//   - With Unique, one task of a key stands at a time, until it has a result or is dead, or for a time. Whoever comes later gets a
//     *DuplicateError, which names that task. The broker sees a keyed hash of the key. It can have a second task run; it cannot
//     name one that is not of the key.
//   - Tasks have no order. Those of a lower priority number go first more often; none waits for ever.
//   - A task begins no earlier than At says. One that is due in more than 2 seconds waits with the broker; late it can be.
//   - A worker takes along what its handlers do in about a fifth of a second, so that slow tasks do not wait behind others while another
//     worker has nothing to do. Stop gives back what has not begun.
//   - Up to 16 short tasks that were enqueued at the same time share a message of the log, a seal and a sync of the broker's disk. A worker that has too few
//     handlers for them puts them back one by one, so that others can have them. While tasks of such a message are retried or snoozed they wait at their
//     worker; where it dies, a snooze may end early.
//   - PauseQueue and ResumeQueue stop and restart all workers of a queue, LimitQueue says how many tasks may run, and begin in a second,
//     over all of them, and TaskHandle.Cancel ends one task, whether it waits or runs. Each is sealed, lasts, and is asked for by workers
//     before they take a task. Limits are exact while workers live; slots of one that dies are free when its leases are, and starts
//     that it had reserved are lost. The broker can keep all this from workers; it can make up none of it.
//   - A recurring task, see Recur, is a template that is sealed and signed once and comes at every tick of its schedule, a cron expression in a
//     time zone or an interval. However many register it, however often the broker puts it there, one run of it is recorded for each tick, under an id
//     that queue, name and tick give; none begins before its tick. It outlives restarts, and lasts as long as workers believe the
//     card of who registered it last: programs register at every start. RemoveRecurring ends it.
//   - Results stay for the queue's retain, and as long as their task is in the log; dead letters for retain.
//   - A handler reports its task's Progress, and enqueuers follow it while the task lasts: live, at most once, the newest first of all.
//     Nothing keeps it.
//   - QueueInfo says how a queue stands, by the broker's word, and which workers live, by their own. Attempts lists what has failed of
//     a task. PurgeDeadLetter has the broker remove a dead letter; the task's result stays.
//
// The broker can hold tasks back, drop them, and hand them out again. It has a handler run twice by hiding from workers that
// there is a result, or by handing a task to two at once; it can make up no task and no result, change none, and give none for another's.
// Before a handler runs, the worker asks whether the task has a result, so that what is put into the log again, or handed out again after
// the broker has lost what it knew, is let go of. Whether there is one is the broker's word: workers cannot read results. So is how many
// attempts have failed, as far as it can leave out notes of them.
//
// # Reading back
//
// What a topic retains is read back by whoever may subscribe to it, with Replay; what became of every task of a queue by the agents in the
// queue's field read, with ReplayQueue. Both are loops, from a place, a time or the beginning, to an end or following, at full speed or at
// that of the past, and change nothing.
//
//	for m, err := range bus.Replay(ctx, "prices.>", agentbus.Since(yesterday), agentbus.BySender("feed-1")) { … }
//	for h, err := range bus.ReplayQueue(ctx, "summarise") { … }
//
// What cannot be opened is an error with its place, a *ReplayError, and the loop goes on. So is what a stream holds twice. The broker can
// leave messages out, and a replay does not notice: that is what auditors are for. Who comes later is given older keys only where the
// policy says so, with "history: true"; and a message of a sender whose certificate has expired since is believed for max_card_age.
//
// # Auditing
//
// What a topic retains, and all that a queue has, can be audited by agents that the policy names in the channel's field audit. They
// need no right to read: a log has hashes and headers of frames, and what attesting each came to.
//
//	auditor, err := bus.Audit(ctx, agentbus.AuditConfig{Dir: "/var/lib/sealbus/audit", Second: elsewhere})
//	report, err := auditor.Verify(ctx, "SB_TOPIC_prices")
//	err = auditor.Export(ctx, "SB_TOPIC_prices", "prices.audit", agentbus.AuditRange{})
//
// Report gives verdicts on integrity, order, completeness, authenticity and freshness, and says of each what it owes to; see package
// audit. Audit keeps up with publishers at full speed. What it has found wrong by itself, AuditConfig.OnError is told at once.
//
// # Rejections
//
// A frame that fails a check is counted under its reason in Stats.Rejected, handed to Config.OnReject, and forgotten.
// It never stops a subscription. What the reasons mean stands with keyring.Reason; in short, Malformed, Misdirected,
// BadSeal, BadSignature and Seen do not happen without somebody tampering or replaying, NotEntitled, Revoked and
// Unsigned also not, except for a moment after a policy has changed; Stale comes of a slow network, of wrong clocks
// and of what waited for a connection; NoKey and NoCard of what did not come in time from the other agents. What
// arrives twice because a connection was being replaced is no rejection.
// What a publisher had to send again to a retained topic, because the acknowledgement was lost, is stored once but may
// come twice to a live subscriber, and is rejected there as Seen.
//
// An entry of the store that is not believed, a key or a card or a policy, is counted as Stats.Skipped.
//
// # Keys
//
// Nobody handles keys. An agent's first use of a topic, a service or another agent joins that channel: readers that
// are connected hand it the key within milliseconds; a reader that is alone makes one; a writer that is alone makes
// a provisional one, under which it can publish at once, and hands that to the first readers that come. So what is
// published before anybody has subscribed is not lost for want of a key, but a topic that is not retained keeps it
// for nobody. A frame whose key or whose sender's card is not here yet waits for it, for up to 5 seconds; half of
// the room for that is kept for those who hold the channel's key.
//
// Whoever holds a key that others still need stays until they have it: an agent that closes in the very moment after
// its first message to another may leave before the other has got the key.
//
// # Connections
//
// A connection that is lost is made again, after 100 milliseconds at first and 3 seconds at most, for as long as the
// bus lives; a broker that has died without a word is noticed within a minute. Subscriptions, sessions and keys are
// kept. Meanwhile:
//
//   - Publish, Request and replies: up to 8 MiB of frames wait and go out when the connection is back, in order.
//     Beyond that, and what has gathered of each topic, the error is ErrDisconnected. Receivers refuse what is older than
//     its max_age, or than its ExpiresIn, by then. What was handed over in the moments before the loss may be lost: the
//     next Flush says that.
//   - Publish on a retained topic waits for its acknowledgement, until its context ends.
//   - A request that was under way gets its reply if that comes after the connection is back, else its context's
//     error.
//   - Flush fails when the connection is lost under it, or was since the last Flush. Subscribe and Serve wait.
//   - What is published to a topic before this agent is connected again does not reach it.
//
// Over a broker that does not take what is sent, Publish may block for up to a minute, whatever its context.
//
// Where the certificate is renewed, the agent's card is published anew, a second connection is made that shows the
// new certificate, everything moves over, and the first one ends: nothing is lost, comes twice or out of order.
//
// # Policies
//
// A newer policy counts from the moment when it arrives. An agent that lost the right to publish gets ErrNotEntitled.
// One that lost the right to subscribe keeps its Subscription, and all that comes is rejected as NotEntitled, until
// a policy gives the right back: then it goes on by itself, if the broker has not been told otherwise. Where somebody
// lost a channel, the next message waits until the remaining agents have a new key.
package agentbus
