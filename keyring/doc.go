// Package keyring holds what an agent needs to seal messages for others and to open theirs: its own keysets, the policy that
// it accepted, the keys of its channels, its sessions. It knows no transport. What it exchanges with other agents goes
// through a [Store], which it does not trust.
//
// # A ring
//
// A [Ring] is one running instance of an agent. [Open] keeps it in a state directory, [Memory] for one life. [Ring.Attach]
// makes it the agent's whose certificate the source holds, and publishes a card: the instance's HPKE and Ed25519 public
// keys, signed with the certificate's key, valid as long as the certificate is. [Ring.Sender] seals on a channel,
// [Ring.Receiver] and [Ring.PairReceiver] open. [Ring.Close] ends it all.
//
// [Sender.Seal] seals one frame. [Sender.SealBundles] seals many, each of the messages that were gathered for it, under one
// signature: that is how signing everything stays affordable.
//
// # Keys
//
// A channel key K is 32 random bytes. Who may read the channel holds K. Who may only write holds
//
//	K_s = HKDF(K, "sealbus/v1 sender", channel, SPIFFE ID)
//
// of itself, and so can open nothing that others write. A sender seals in sessions of at most 2^31 frames and one hour, each
// under an AES-256-GCM key of its own, HKDF(K_s, "sealbus/v1 session", session).
//
// The keys of a channel are a set of signed entries that only grows; there is no document to fork, to roll back or to race
// for:
//
//   - A join: this card would like the channel's keys. It proves nothing.
//   - A key statement, signed by the card of the reader that made the key: its id, its commitment, when it was made, under
//     which policy, when it is due for rotation.
//   - A wrap, signed by the card of a reader: K, or K_s for a writer, encrypted by HPKE with X-Wing to the card of a
//     member. The encryption is bound to channel, key, commitment, both cards and the role.
//
// Readers that are online answer joins, taking turns. Whoever gets no key from anybody makes one. A writer's key is
// provisional: readers take it, to open what its maker sealed, no other writer does, and a reader's key replaces it. An agent
// seals under the newest key that is fit: made by an agent that may read the channel and is not revoked, under a policy
// since which nobody has lost access to the channel. [Ring.AdoptPolicy] makes keys unfit before it returns.
//
// # What the storage is trusted for
//
// Nothing. Every entry that is believed is signed by a card, every card by a certificate that is valid now, and the
// policy by a pinned operator. What is hidden is missing: an agent then has no key, or one that the others have not, and what
// it seals is not opened. What is invented is skipped, counted and reported. What a member stores displaces nothing
// of what other members store. A store that fails is asked again.
//
// # Opening a frame
//
// [Receiver.Open] checks in the order of the [Reason] constants: cheap checks first, those that need a key before those that
// need a signature, and the replay state changes only for a frame that a member has sealed and, where the channel is signed,
// its sender has signed. A receiver accepts no frame twice, none from before it was made, none that is older than
// the channel's max_age and none that is more than two seconds ahead of its clock. With a state directory that holds over a
// restart and a crash, because the time up to which frames are accepted is on disk before they are. Without one, a frame
// of a sender whose clock is ahead can be accepted a second time by a process that starts within that lead.
//
// Open is [Receiver.Unseal], all that is dear, which many goroutines may do at once and in any order, and then
// [Receiver.Accept], which knows what was received before.
//
// On a channel that the policy does not have signed, any reader can speak as any writer. On a pair nobody can but the two.
// Whoever reads can pass on what it reads; there is no forward secrecy within the life of a key.
//
// # Opening what was kept
//
// [StoredReceiver.Open] opens frames that lay in a stream: tasks, results, events that are read back. It makes the same
// checks in the same order, but for what only makes sense live. It has no replay state. There is no live window: what is sealed may
// wait for years. The policy in force decides who may send and who is revoked, whatever a frame's time says.
//
// A sender's card may have expired since the frame was sealed, if that was at most the policy's max_card_age ago. So whoever has stolen an expired
// instance's keys, and has the broker on its side, can date a frame back, for that long or until the name is revoked.
//
// A signed frame may be under any key of the channel that this agent was given, also one from before a rotation, or one that an agent
// knows which has lost the channel since: the signature alone says who sent it. A frame that is not signed must be under a key that is fit for
// live traffic. Whoever holds K can make every writer's seal and give it any time, so no time would make it believable.
//
// Where the policy gives newcomers the channel's history, readers hand older keys on to readers, fit or not. A newcomer believes
// the statement of a key whose creator's card has expired for what was kept, never for live traffic. A producer that was alone made
// its own key, and is for a time the only one to have it: with a state directory it hands that on when it comes back.
// A key that nobody has any more is gone, and what was sealed under it with it. [Ring.AwaitStored] asks, and says no more than
// that it has not come yet.
//
// A policy may destroy the keys of a channel that were made before some time. [Ring.AdoptPolicy] lets go of them, in memory and in
// the state directory, and they do not come back; what was sealed under them is not opened any more, and does not wait for its
// key: see [ErrKeyDestroyed]. Who has sealed it can be proven as before.
//
// [Ring.Attest] proves who has sealed a signed frame that was kept without opening it, to an agent that has no key of its channel, nor any part
// in that. A [Witness] proves the same long afterwards and with no store, from the policies, cards and keys that it is shown, to whoever knows
// the authorities and the operators of then; [Ring.RawPolicy], [Ring.RawCard] and [Ring.KeyStatements] are where they come from.
// [Ring.NoteSigner] signs notes with the card's key, for the checkpoints of a log. [Ring.Pseudonyms] are what stands for a value where the broker can see it: the same for all readers of a channel.
//
// # Counting what is kept
//
// Where a stream keeps all frames of a session, its sender counts them. [Ring.CountedSender] seals, with [Sender.SealCounted], session notes among the
// frames: frames of kind control that say in their recipient, for everybody to read and for who has no key to verify, how the session
// before ended, that this one is closed or idle, and which numbers were given up. [ParseSessionNote] reads them. Their sender is told what became
// of each frame, by [Sender.Stored] or [Sender.GiveUp]. So what is missing of a session that has ended was taken out of the stream or never
// got there. With a state directory, sessions are chained over restarts: sessions.enc says which was the last, and how it has ended.
//
// # At rest
//
// A state directory is mode 0700, its files 0600, and it belongs to one process at a time. All that it holds is encrypted with
// AES-256-GCM under a keyset that is encrypted under the caller's [KEK]. Files are replaced whole, never written in
// place. Whoever can write the directory can put an older state back: that is not detected.
//
// Rings, senders, receivers and keys print as "[redacted]", with every verb and logger. Errors hold what frames and entries
// claim in clear, nothing of what is sealed. testdata/vectors fixes every derivation for other languages.
package keyring
