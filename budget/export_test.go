package budget

import "time"

// BalanceAt is Balance at a given time.
func (b *Budget) BalanceAt(now time.Time, target string) float64 { return b.balance(now, target) }
