// Package degrade tests how levels of degradation pass through a chain of services.
package degrade
