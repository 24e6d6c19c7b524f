package wire

import "strings"

// MaxLen is the maximum length of a value in bytes. A longer value is malformed.
const MaxLen = 256

// MaxCount is the largest number of tokens or attempts in a value. MaxMicros is the largest time or
// duration, in microseconds.
const (
	MaxCount  = 65535
	MaxMicros = 1<<63 - 1
)

// MaxLevel is the highest level of degradation.
const MaxLevel = 3

// version is the first field of both values. A value with another version is malformed.
const version = "1"

// fields iterates over the "k=v" fields of a value.
type fields struct {
	all   string // the fields, without the version and its semicolon
	next  int    // offset of the next field in all; greater than len(all) after the last field
	short uint32 // a bit for each key of one letter that has been read
}

// open checks the length and the version of a value, and moves to its first field. It returns false if
// the value is malformed.
func (f *fields) open(value string) bool {
	if len(value) > MaxLen {
		return false
	}
	head, rest, more := strings.Cut(value, ";")
	if head != version {
		return false
	}
	f.all, f.next, f.short = rest, 0, 0
	if !more {
		f.next = 1
	}
	return true
}

// read returns the next field. done is true if there is none. ok is false if the field is malformed or
// repeats a key.
func (f *fields) read() (key, value string, done, ok bool) {
	if f.next > len(f.all) {
		return "", "", true, true
	}
	start := f.next
	field := f.all[start:]
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

// seen reports whether a field before offset end has the given key. For a key of several letters, which no
// field of this version has, it searches the earlier fields. The search is short: a value has at most
// MaxLen bytes.
func (f *fields) seen(key string, end int) bool {
	if len(key) == 1 {
		bit := uint32(1) << (key[0] - 'a')
		seen := f.short&bit != 0
		f.short |= bit
		return seen
	}
	for rest := f.all[:end]; rest != ""; {
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

// parseUint parses a decimal number that is at most limit. It allows only digits.
func parseUint(s string, limit uint64) (uint64, bool) {
	const digits = 19 // as many as MaxMicros has; a uint64 cannot overflow with them
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

// parseHex parses exactly 16 hexadecimal digits, in lower or upper case.
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
