// Package audit keeps a log of what a stream held, and verifies the one against the other: months later, anywhere, without a
// broker, a network or a key that opens anything. It is what the auditor over NATS is made of, and what whoever checks the
// auditor uses.
//
// # The log
//
// An auditor follows one stream and appends an [Entry] for every message: where it was, when the broker says it has stored it, its
// hash, its header, and whether its sender's signature and rights were in order. What happens around it is an entry too: policies,
// cards, keys, the stream's configuration, what was pruned, that the auditor was away. No payload and nothing that opens one is in it.
//
// The entries are the leaves of a Merkle tree (RFC 6962, golang.org/x/mod/sumdb/tlog). A [Log] has it on disk; it only grows. From
// time to time [Log.Checkpoint] signs its size and root, with the auditor's own card, as C2SP tlog-checkpoint has it; a checkpoint is
// kept beside the log, published, and given to a [Sink], a second place that neither the broker nor the auditor's disk can
// change. A log proves that it extends what it has signed before it signs anything else. [Log.Prove] proves one entry to a third
// party by a C2SP tlog-proof, a [Proof].
//
// After a crash at any byte a log opens with everything that was synced, and goes on. What [Log.AddStatement] is given, the signed
// policies, cards and keys that the entries name, lies beside it, so that nothing else is needed later.
//
// # Verdicts
//
// [Verify] reads the log beside its checkpoints, then the stream beside the log, and gives a verdict each on
//
//	integrity     the log is the one that was signed, and a message that is there is the one that was logged
//	order         messages are where they were, each sender's in its order, none twice
//	completeness  nothing is gone that was logged, before its time; the log has no holes; nor have the counters of the senders
//	authenticity  each message was signed by an agent that was entitled to send it, under the policy and with a card of that time
//	freshness     the last checkpoint is not too old
//	readability   each message opens, where the verifier has keys
//
// A verdict is ok, FAILED, or unproven: nothing is wrong, and something cannot be known. It has the number of findings, the
// position of the first, and figures, all counted. [Report.ExitCode] is 10 to 15 by the first verdict that failed.
//
// What was done is told by which verdict fails:
//
//	a message deleted, the end cut off, trimmed before its time      completeness, at each message that is gone
//	a message changed; its subject or the broker's time changed      integrity, at the message
//	two messages swapped                                             order, at both
//	a message stored once more                                       order, at the second
//	a message written over another                                   order, and completeness
//	a message put where the log has none                             integrity
//	rubbish, a stranger's frame, a frame on another subject          authenticity
//	a frame of a sender that was revoked or not entitled             authenticity
//	messages gone before they were logged                            completeness
//	messages dropped and acknowledged                                completeness, by the sender's counters
//	a stream made anew                                               completeness
//	an entry changed, a log cut or put back, a log that was forked   integrity, at the entry
//	a checkpoint forged, or of another root                          integrity
//	an auditor that the policy does not name                         authenticity, at entry 0
//
// and none of these fails because of what an honest stream goes through: messages that are as old as the policy has them kept are
// gone; policies change, cards are renewed and expire; sessions of senders end by the hour, or by the death of a process; senders
// declare void what they could not have stored; the auditor was away for a while, or for longer than messages are kept; two
// auditors keep a log each; tasks of a queue come in any order, are put back by workers and come again on their
// schedule.
//
// # What is not proven
//
// This stands in the report as unproven, or in its words:
//
//   - What came after the last checkpoint. The tail of a log is its keeper's word until it is signed, and a log that was cut back
//     to an earlier checkpoint is found only by a later one that was kept elsewhere.
//   - The tail of a session that its sender has not closed: it may have sent more, and the broker dropped it. It is proven when the
//     session is closed, or when the next one of the same instance says how it ended. A process that was killed leaves it open.
//   - A session of which nothing at all reached the log, until the next one names it.
//   - What never reached a stream whose senders do not count: results and dead letters, delayed and recurring tasks.
//   - The order between different senders, beyond what the log saw.
//   - A frame that was sealed, as it says, before the policy took its sender's right away, and was logged after: it was on its way,
//     or somebody has dated it back.
//   - A frame whose sender's card had expired for longer than max_card_age when it was logged.
//   - Who sent a frame that is not signed, where the policy does not ask for signatures.
//   - What was pruned while the auditor was away.
//   - Whether dead letters that are gone were removed on request.
//
// The auditor is trusted for what it alone has seen: the times of its log, and that a message was there before it was gone. What it
// says of a message that is still there is checked. It cannot read, cannot forge a frame, and cannot take back what it has signed.
//
// # Taking it elsewhere
//
// [Export] writes everything into one file, [VerifyExport] gives the same verdicts on it. [Disclose] shows single messages to
// somebody, of a frame that may hold many, and [VerifyDisclosure] tells who has sealed them and when that was logged; of the
// others it shows nothing. [Compare] tells whether two auditors were shown the same.
package audit
