// Package policy says who may do what on a bus, and what things are called there.
//
// One file, signed by an operator, decides everything: the broker derives from it what each connection may publish and
// subscribe to ([Policy.Permissions]), agents derive from it whose keys and messages they accept ([Policy.CanRead],
// [Policy.CanWrite], [Policy.MayRequest], [Policy.MayReply]). A broker that lets through more than the policy says gains
// nothing by it, because the agents ask the policy themselves.
//
// Text becomes a [Policy] by [Parse], or, with proof of who wrote it, by [Verify]; [Sign] makes that proof. A signed
// policy is a statement of type "sealbus-policy" whose claims are "iat", "operator" (the public key that signs, its
// SubjectPublicKeyInfo in base64url) and "policy" (the text); its key id is the key's fingerprint. It counts only when
// that fingerprint is pinned, or named by the policy in force, whatever certificates anybody can issue.
//
// # The policy file
//
//	trust_domain: example.org        # of the agents' and brokers' certificates
//	revision: 7                      # from 1; every change needs a higher one
//	previous: sha256:1c9f…           # optional: the hash of the policy that this one replaces
//	operators: ["sha256:9b02…"]      # optional: keys that may sign the next one, beside the pinned
//
//	topics:                          # publish and subscribe
//	  prices:                        # covers prices, prices.eu, prices.eu.de …
//	    publish: ["feed-*"]
//	    subscribe: [planner, "exec-*"]
//	    audit: [witness]             # keeps a log of what is sealed there, and cannot open it
//	    max_age: 30s                 # a live message older than this is refused
//	    retain: 90d                  # the broker keeps (sealed) messages this long; without it, not at all
//	    history: true                # newcomers get older keys and can open what is kept
//	queues:                          # tasks with one recorded result
//	  summarise: {enqueue: [planner], work: ["writer-*"], read: [clerk], audit: [witness], retain: 7d}
//	services:                        # a request to any one of the servers
//	  lookup: {call: [planner], serve: ["index-*"]}
//	direct:                          # a request to an agent by its name
//	  - {from: [planner], to: ["*"]}
//	revoked: [exec-3]                # has no rights, whatever stands above
//	max_card_age: 7d                 # how long what was kept is believed after its sender's card has expired
//	destroyed:                       # keys that everybody drops
//	  - {channel: topic/prices, before: "2026-11-01T00:00:00Z"}
//
// It is YAML 1.2 in UTF-8, at most 128 KiB, one document, and nothing in it may mean more than it shows: anchors, aliases,
// tags, merge keys, duplicate keys and invisible characters are refused, and so is every field that is not in these
// tables. Only trust_domain and revision must be there. What is refused is refused with its line and with what to write
// instead, all problems at once.
//
// Agents are given by name, the part of their SPIFFE ID after /agent/, or by a glob in which "*" stands for any run of
// characters, also none. A glob that starts with "*" must stand in quotes. Lists may not be empty, and nothing may stand
// in one twice. The names "operator" and "broker" belong to no agent: "*" leaves them out, and every other entry that
// matches one is refused, so that nothing on the bus can pass itself off as either. A name is 1 to 63 of a-z, 0-9, "-" and
// "_" and starts with a letter or digit; topics, queues and services follow the same rule. A topic covers all subjects
// below it, so there can be no second one inside.
//
// Durations are a whole number and one unit: s, m, h or d.
//
// Fields of a topic:
//
//	publish    list               who writes; required
//	subscribe  list               who reads, and may read back what is retained; required
//	audit      list               who may keep logs of what is retained, sealed as it is; only with retain
//	max_age    1s to 10m, 30s     how old a live message may be when it is opened
//	retain     1s to 3650d, none  how long the broker keeps messages; at least max_age
//	signed     true or false      whether frames carry a signature, true; without one any reader can speak as any writer
//	pad        true or false      whether sizes are hidden, false
//	rotate     1m to 90d, 24h     how long one channel key is used to seal
//	history    true or false      whether a newcomer is given older keys, false
//
// Fields of a queue, which hold for its tasks and its results:
//
//	enqueue    list               who puts tasks in and reads results; required
//	work       list               who reads tasks and writes results; required
//	read       list               who reads tasks, results and dead letters, and does nothing else
//	audit      list               who may keep logs of them, sealed as they are
//	retain     1m to 3650d, 7d    how long settled tasks and results are kept
//	signed, pad, rotate           as for a topic
//	history    true or false      true, because tasks wait for workers that start later
//
// Fields of a service, which is always signed:
//
//	call       list               who asks; required
//	serve      list               who answers; required
//	pad, rotate                   as for a topic; pad holds for the replies too
//
// Fields of a direct rule, one way:
//
//	from       list               who may ask; required
//	to         list               who may be asked; required
//	signed     true or false      false: two agents alone hold the key, a signature adds proof for others
//	pad        true or false      false
//
// Replies need no rule: who may be asked may answer. Two agents of which one may ask the other, directly or through a
// service, share a channel of their own, their pair; it is signed or padded when any rule between them says so.
//
// A revocation takes precedence over everything, so a name may be revoked and still stand in lists.
//
// An auditor, one that a list audit names, gets no key by that. It reads sealed frames from the streams of the channel
// ([AuditedStreams]), the policies that were in force, and how the streams are configured, and publishes checkpoints under its
// own name ([AuditSubject]). Everybody with a part in a channel that has auditors may read those. The lists read and audit may
// name an agent that other lists name too.
//
// Fields of the policy as a whole:
//
//	max_card_age  1h to 3650d, 7d   how long after it was sealed a kept frame is believed whose sender's card has expired
//	destroyed     list of {channel, before}, at most 1,000
//
// An entry of destroyed says that every key of a topic, a queue (and its results) or a service that was made before a time,
// in UTC and in quotes, is destroyed: who holds one drops it when this policy comes into force there, never takes it
// again, and what was sealed under it can be opened by nobody who does so. It can still be proven who sealed it, and when. The entry
// has to stay, and the channel with it, for as long as an agent may come back that has not seen it. [Sign] refuses a time
// that is yet to come.
//
// # Following one policy with the next
//
// [Policy.CheckSuccessor] holds the rules: never a lower revision, never two of the same revision, and when the next
// revision names the policy before it, that must be the one in force. [Policy.ReadersLost] says for which channels a
// change makes new keys necessary.
//
// # Names
//
// A queue's tasks travel on [TaskSubject] into a log, and from its consumers to workers ([TaskPull], [TaskAcks]); what
// comes of each goes to [ResultSubject] or [DeadSubject], live news to [ProgressSubject], what agents say of the queue as
// a whole to [ControlSubject], and tasks for later to [DelaySubject]. Enqueuers and workers write the last two under their
// own names only. What is between two agents of one queue NATS does not keep apart: a worker can settle what another
// works on, and write the result of any task.
//
// A queue's log also takes its enqueuers' session notes ([SessionSubject]), which no consumer hands out.
//
// A [Channel] names one set of readers and writers. Subjects, streams, buckets and the keys of their entries are made
// here alone, so that permissions and use cannot come apart.
package policy
