package keyring

// window is a sliding window over the sequence numbers of one session, after RFC 6479: it tells a
// number that was accepted before from a new one without keeping every number. The zero value is
// ready. Numbers begin at 1. It is not safe for concurrent use.
type window struct {
	base uint64 // first number accepted: what came before it was not due here
	top  uint64 // highest number accepted
	bits [windowBits / 64]uint64
}

// check reports whether seq may be accepted: it is new and not further back than the window reaches.
func (w *window) check(seq uint64) bool {
	if seq == 0 {
		return false
	}
	if seq > w.top {
		return true
	}
	if w.top-seq >= windowBits {
		return false
	}
	slot, bit := place(seq)
	return w.bits[slot]&bit == 0
}

// accept marks seq, which check has allowed, as seen. It returns how many numbers have left the window
// unseen by this: they were lost on the way, as far as a reader of the whole channel can tell.
func (w *window) accept(seq uint64) (lost uint64) {
	switch {
	case w.top == 0:
		w.base, w.top = seq, seq
	case seq > w.top:
		lost = w.advance(seq)
	case seq < w.base:
		w.base = seq
	}
	slot, bit := place(seq)
	w.bits[slot] |= bit
	return lost
}

// advance moves the top of the window up to seq and clears the places that it comes to cover.
func (w *window) advance(seq uint64) (lost uint64) {
	step := seq - w.top
	for i := uint64(1); i <= min(step, windowBits); i++ {
		n := w.top + i
		slot, bit := place(n)
		if n > windowBits && n-windowBits >= w.base && w.bits[slot]&bit == 0 {
			lost++
		}
		w.bits[slot] &^= bit
	}
	if step > windowBits {
		lost += step - windowBits // between its old top and its new bottom, all at once
	}
	w.top = seq
	return lost
}

func place(seq uint64) (slot int, bit uint64) {
	return int(seq / 64 % (windowBits / 64)), 1 << (seq % 64)
}
