// Package budget holds the retry budget of a whole call tree.
//
// A [Budget] is the purse of the requests that begin in this process: a token
// bucket that fills with successes and pays for extra attempts, that is,
// retries and hedges. A request is granted some of its tokens, and they travel
// with it: an [Allotment] is what one request holds at one hop, and a [Lease]
// hands it on to the next. A token is at one place at a time, so that the whole
// tree below a request makes no more extra attempts than it was granted,
// however deep it is and however wide it fans out.
//
// # States of a token
//
// Within an allotment a token is free (held here), leased (with a callee whose
// reply has not come), or used (charged for good). Always
//
//	granted = free + leased + used
//
// and these are the only moves:
//
//	grant    purse  -> free     the first lease of a root, or a spend that finds nothing free
//	lease    free   -> leased   to the next attempt: all of it, but what its hedges may need
//	settle   leased -> used     what the reply's report names; the rest becomes free
//	lost     leased -> used     all of it, because no reply came to tell
//	spend    free   -> used     an extra attempt is about to be made
//	credit   free   -> used     one extra attempt after a lost reply; free may become negative
//	unspend  used   -> free     that attempt reached no server
//	close    free   -> purse    when the root ends, with a negative rest taken out of the purse
//
// A hop that ends reports what was used, and what is still leased as used too:
// whoever holds that can no longer be heard.
//
// # What may enter
//
// This package is pure: it reads no clock but in [NewRoot] and [Budget.Balance],
// starts no goroutine and knows no gRPC. Time is passed in.
//
// The idea of paying for retries with a share of successes is from Finagle's
// RetryBudget and gRFC A6's retryThrottling; carrying what was granted along
// with the request is this package's own.
package budget
