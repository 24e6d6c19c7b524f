package wire

import "strings"

// MaxLen is the longest value, in bytes, that is read. Longer ones are
// malformed.
const MaxLen = 256

// MaxCount is the largest token or attempt count, and MaxMicros the largest
// time or duration in microseconds, that either side may send.
const (
	MaxCount  = 65535
	MaxMicros = 1<<63 - 1
)

// version is the first field of both values. Anything else is malformed to a
// reader of this version.
const version = "1"

// fields walks the "k=v" fields of a value after its version.
type fields struct {
	whole string // everything after the version's semicolon
	next  int    // where in whole the next field begins; past its end when done
	short uint32 // the keys of one letter that have been seen, a bit each
}

// open checks what holds for a value as a whole and positions f at its first
// field. It reports false if the value is malformed.
func (f *fields) open(value string) bool {
	if len(value) > MaxLen {
		return false
	}
	head, rest, more := strings.Cut(value, ";")
	if head != version {
		return false
	}
	f.whole, f.next, f.short = rest, 0, 0
	if !more {
		f.next = 1
	}
	return true
}

// read returns the next field. It reports done when there is none left, and
// !ok if the field is malformed or its key has been seen before.
func (f *fields) read() (key, value string, done, ok bool) {
	if f.next > len(f.whole) {
		return "", "", true, true
	}
	start := f.next
	field := f.whole[start:]
	if i := strings.IndexByte(field, ';'); i >= 0 {
		field = field[:i]
	}
	f.next = start + len(field) + 1
	key, value, ok = strings.Cut(field, "=")
	if !ok || !isKey(key) || !isValue(value) || f.seen(key, start) {
		return "", "", false, false
	}
	return key, value, false, true
}

// seen reports whether a field before offset end has the given key. For keys of
// more than a letter, of which this version knows none, it walks the fields
// before: a value has at most MaxLen bytes.
func (f *fields) seen(key string, end int) bool {
	if len(key) == 1 {
		bit := uint32(1) << (key[0] - 'a')
		seen := f.short&bit != 0
		f.short |= bit
		return seen
	}
	for rest := f.whole[:end]; rest != ""; {
		field, tail, _ := strings.Cut(rest, ";")
		if len(field) > len(key) && field[len(key)] == '=' && field[:len(key)] == key {
			return true
		}
		rest = tail
	}
	return false
}

// isKey reports whether s is a lower-case letter followed by lower-case
// letters, digits, '-' or '_'.
func isKey(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z'
		other := '0' <= c && c <= '9' || c == '-' || c == '_'
		if !letter && (i == 0 || !other) {
			return false
		}
	}
	return s != ""
}

// isValue reports whether s is printable ASCII without space and semicolon.
func isValue(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == ';' {
			return false
		}
	}
	return s != ""
}

// parseUint reads a decimal number of digits alone, at most limit.
func parseUint(s string, limit uint64) (uint64, bool) {
	const digits = 19 // MaxMicros has as many, so that the sum cannot overflow
	if s == "" || len(s) > digits {
		return 0, false
	}
	var n uint64
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, n <= limit
}

// parseHex reads exactly 16 hexadecimal digits of either case.
func parseHex(s string) (uint64, bool) {
	if len(s) != 16 {
		return 0, false
	}
	var n uint64
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			n = n<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 | uint64(c-'a'+10)
		case 'A' <= c && c <= 'F':
			n = n<<4 | uint64(c-'A'+10)
		default:
			return 0, false
		}
	}
	return n, true
}

// appendHex appends n as 16 lower-case hexadecimal digits.
func appendHex(dst []byte, n uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, digits[n>>shift&0xf])
	}
	return dst
}
