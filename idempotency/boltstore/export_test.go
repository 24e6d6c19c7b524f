package boltstore

import bolt "go.etcd.io/bbolt"

// Count returns how many records the file has, including expired ones.
func (s *Store) Count() (n int) {
	_ = s.db.View(func(tx *bolt.Tx) error {
		n = tx.Bucket([]byte(bucketRecords)).Stats().KeyN
		return nil
	})
	return n
}
