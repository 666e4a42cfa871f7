package keyd

import (
	"crypto"
	"crypto/subtle"
	"encoding/binary"

	"postern/hsm"
)

// unpadPKCS1 is 1 when em is an encryption block of RFC 8017 §7.2.2 around a
// message of exactly size bytes. The time depends on the two lengths only.
func unpadPKCS1(em []byte, size int) int {
	sep := len(em) - size - 1
	if sep < 10 {
		return 0
	}
	ok := subtle.ConstantTimeByteEq(em[0], 0) & subtle.ConstantTimeByteEq(em[1], 2) & subtle.ConstantTimeByteEq(em[sep], 0)
	zeros := 0
	for _, b := range em[2:sep] {
		zeros |= subtle.ConstantTimeByteEq(b, 0)
	}
	return ok & (1 - zeros)
}

// unpadOpenPGP looks for [cipher] key checksum of each length a key may have
// (RFC 9580 §5.1.3), all of them every time.
func unpadOpenPGP(o *opened, em []byte, w hsm.Wrapped) {
	for _, n := range []int{16, 24, 32} {
		if w.Size != 0 && w.Size != n {
			continue
		}
		head := 1
		if w.V6 {
			head = 0
		}
		ok := unpadPKCS1(em, head+n+2)
		good, key, cipher := checkSession(em[len(em)-head-n-2:], n, w.V6)
		o.take(ok&good, key, cipher)
	}
}

// checkSession is the verdict on [cipher] key checksum with a key of n bytes:
// the cipher must have keys of that length and the checksum must be right.
func checkSession(m []byte, n int, v6 bool) (ok int, key []byte, cipher int) {
	ok = 1
	if !v6 {
		cipher = int(m[0])
		ok = 0
		for id := uint8(1); id <= 13; id++ { // every id, so that the time does not depend on it
			if cipherKey(id) == n {
				ok |= subtle.ConstantTimeByteEq(m[0], id)
			}
		}
		m = m[1:]
	}
	key = m[:n]
	var sum uint16
	for _, b := range key {
		sum += uint16(b)
	}
	ok &= subtle.ConstantTimeEq(int32(sum), int32(binary.BigEndian.Uint16(m[n:])))
	return ok, key, cipher
}

// unpadOAEP is RFC 8017 §7.1.2 step 3 for messages up to maxKey bytes. All
// its failures are one (Manger's attack needs to tell the first byte apart).
func unpadOAEP(o *opened, em []byte, w hsm.Wrapped) {
	mgf := w.MGFHash
	if mgf == 0 {
		mgf = w.Hash
	}
	h := w.Hash.New()
	h.Write(w.Label)
	want := h.Sum(nil)
	seed, db := em[1:1+len(want)], em[1+len(want):]
	mgf1(seed, db, mgf)
	mgf1(db, seed, mgf)

	ok := subtle.ConstantTimeByteEq(em[0], 0) & subtle.ConstantTimeCompare(db[:len(want)], want)
	rest := db[len(want):]
	looking, index, invalid := 1, 0, 0
	for i, b := range rest {
		one := subtle.ConstantTimeByteEq(b, 1)
		zero := subtle.ConstantTimeByteEq(b, 0)
		index = subtle.ConstantTimeSelect(looking&one, i, index)
		looking = subtle.ConstantTimeSelect(one, 0, looking)
		invalid = subtle.ConstantTimeSelect(looking&(1-zero), 1, invalid)
	}
	ok &= (1 - looking) & (1 - invalid)
	// Every length the message may have is tried, so that only the length of
	// a good message shows.
	for n := 1; n <= maxKey && n < len(rest); n++ {
		if w.Size != 0 && w.Size != n {
			continue
		}
		at := len(rest) - n
		o.take(ok&subtle.ConstantTimeEq(int32(index), int32(at-1)), rest[at:], 0)
	}
}

// mgf1 adds the mask of RFC 8017 §B.2.1 to b.
func mgf1(b, seed []byte, hash crypto.Hash) {
	h := hash.New()
	var mask []byte
	for n := uint32(0); len(b) > 0; n++ {
		h.Reset()
		h.Write(seed)
		h.Write(binary.BigEndian.AppendUint32(nil, n))
		mask = h.Sum(mask[:0])
		k := subtle.XORBytes(b, b, mask)
		b = b[k:]
	}
}
