package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/boltstore"
	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/hopbound/hopbound/idempotency/redisstore"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"
)

// open opens the store that the flags name. The returned function closes it.
func (o *options) open(ctx context.Context) (idempotency.Inspector, func(), error) {
	o.store = cmp.Or(o.store, os.Getenv("HOPBOUND_STORE"))
	scheme, path, _ := strings.Cut(o.store, ":")
	switch {
	case o.store == "":
		return nil, nil, usagef("-store is missing: give redis://host:6379, postgres://user@host/database or bolt:file")
	case o.given["prefix"] && scheme != "redis" && scheme != "rediss":
		return nil, nil, usagef("-prefix requires a Redis store")
	case o.given["schema"] && scheme != "postgres" && scheme != "postgresql":
		return nil, nil, usagef("-schema requires a PostgreSQL store")
	}
	switch scheme {
	case "redis", "rediss":
		return o.openRedis()
	case "postgres", "postgresql":
		return o.openPostgres(ctx)
	case "bolt":
		return openBolt(path)
	default: // the address may contain a password
		return nil, nil, usagef("-store must begin with redis://, rediss://, postgres:// or bolt:")
	}
}

func (o *options) openRedis() (idempotency.Inspector, func(), error) {
	var opts []redisstore.Option
	if o.given["prefix"] {
		opts = append(opts, redisstore.WithPrefix(o.prefix))
	}
	config, err := rueidis.ParseURL(o.store)
	if err != nil { // the error may contain a password
		return nil, nil, usagef("-store is not a valid Redis URL: it must be redis://[user:password@]host:port[/database], with percent-encoded user and password")
	}
	config.Dialer.Timeout, config.ConnWriteTimeout = o.timeout, o.timeout
	client, err := rueidis.NewClient(redisstore.ClientOption(config))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot connect to Redis: %w", err)
	}
	store, err := redisstore.New(client, opts...)
	if err != nil {
		client.Close()
		return nil, nil, asUsage(err)
	}
	return store, client.Close, nil
}

func (o *options) openPostgres(ctx context.Context) (idempotency.Inspector, func(), error) {
	opts := []pgstore.Option{pgstore.WithExpiry(0), pgstore.WithoutListen()} // the command must not change anything by itself
	if o.given["schema"] {
		opts = append(opts, pgstore.WithSchema(o.schema))
	}
	config, err := pgxpool.ParseConfig(o.store)
	if err != nil {
		return nil, nil, usagef("-store: %v", err) // pgx omits the password
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	store, err := pgstore.New(pool, opts...)
	if err != nil {
		pool.Close()
		return nil, nil, asUsage(err)
	}
	return store, func() {
		store.Close()
		pool.Close()
	}, nil
}

func openBolt(path string) (idempotency.Inspector, func(), error) {
	if _, err := os.Stat(path); err != nil { // boltstore.Open would create the file
		return nil, nil, err
	}
	store, err := boltstore.Open(path)
	if errors.Is(err, boltstore.ErrLocked) {
		return nil, nil, fmt.Errorf("%w; stop that process and try again", err)
	}
	if err != nil {
		return nil, nil, err
	}
	return store, func() { _ = store.Close() }, nil
}

// addSealKey reads the key file of a -seal-key flag.
func (o *options) addSealKey(value string) error {
	name, file, ok := strings.Cut(value, "=")
	if !ok || name == "" || file == "" {
		return errors.New("must be name=file")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	o.sealKeys[name], err = hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil { // the error would contain a character of the key
		return fmt.Errorf("%s must contain only hexadecimal digits", file)
	}
	_, err = idempotency.NewKeyRing(name, map[string][]byte{name: o.sealKeys[name]})
	return err
}

// printer returns a printer with the settings of the flags.
func (o *options) printer() (*printer, error) {
	p := &printer{out: o.stdout, json: o.json, response: o.response}
	for name := range o.sealKeys { // the first key is as good as any, because nothing is sealed
		keys, err := idempotency.NewKeyRing(name, o.sealKeys)
		p.codec.Keys = keys
		return p, err
	}
	return p, nil
}
