// Package budgets tests both bounds of the retry budgets over chains and trees of servers.
package budgets
