package main

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/redisstore"
	"github.com/hopbound/hopbound/idempotency/storetest/services"
	"github.com/redis/rueidis"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestKeyHashMayBeThatOfSeveralRecords(t *testing.T) {
	t.Parallel()
	path := newBolt(t, func(store idempotency.Inspector) {
		begin(t, store, "tenant-a", method, time.Hour)
		begin(t, store, "tenant-b", method, time.Hour)
		begin(t, store, "tenant-a", "/shop.v1.Orders/Cancel", time.Hour)
	})
	store := "-store=bolt:" + path
	r := invoke(t, store, "find", "-hash", strings.ToUpper(key.Hash()), "-json")
	r.want(t, 0)
	if n := len(r.objects(t)); n != 3 {
		t.Errorf("%d records", n)
	}
	ids := map[string]string{}
	for _, tenant := range []string{"tenant-a", "tenant-b"} {
		ids[tenant] = idempotency.NewID(tenant, method, key).String()
	}
	for _, cmd := range []string{"release", "delete"} {
		invoke(t, store, cmd, "-hash", key.Hash(), "-reason", "a test").want(t, exitFailed,
			"3 records have the key hash "+key.Hash(), "\n  -id "+ids["tenant-a"]+"   "+method+", pending", ids["tenant-b"], "/shop.v1.Orders/Cancel", "Nothing was changed.")
	}
	invoke(t, store, "delete", "-id", ids["tenant-b"], "-reason", "a test", "-force").want(t, 0, ids["tenant-b"])
	invoke(t, store, "find", "-id", ids["tenant-b"]).want(t, exitFailed, "no record has this ID")
	invoke(t, store, "find", "-method", method, "-key", string(key), "-tenant", "tenant-b").want(t, exitFailed,
		"no record of this tenant, method and key", "find -hash "+key.Hash())
	invoke(t, store, "find", "-method", method, "-key", `"`+string(key)+`"`, "-tenant", "tenant-a").want(t, 0, ids["tenant-a"])
	invoke(t, store, "find", "-hash", "0123456789abcdef").want(t, exitFailed, "no record has the key hash 0123456789abcdef")
}

func TestListSelectsRecords(t *testing.T) {
	t.Parallel()
	path := newBolt(t, func(store idempotency.Inspector) {
		runOut(t, store, begin(t, store, "", "/shop.v1.Orders/Stuck", time.Millisecond).ID)
		begin(t, store, "", "/shop.v1.Orders/Runs", time.Hour)
		complete(t, store, begin(t, store, "", "/shop.v1.Orders/Done", time.Hour), idempotency.Codec{}, &idempotency.Outcome{})
		if err := store.Release(t.Context(), begin(t, store, "", "/shop.v1.Orders/Released", time.Hour), true, time.Hour); err != nil {
			t.Fatal(err)
		}
	})
	for _, tc := range []struct{ args, want string }{
		{"", "Stuck"},
		{"-state=pending", "Stuck"},
		{"-older=0s", "Runs Stuck"},
		{"-older=1h", ""},
		{"-state=done", "Done"},
		{"-state=released", "Released"},
		{"-state=all", "Done Released Runs Stuck"},
		{"-state=all -older=1h", ""},
		{"-state=all -method=/shop.v1.Orders/Runs", "Runs"},
		{"-method=/shop.v1.Orders/Runs", ""},
	} {
		args := append([]string{"-store=bolt:" + path, "-json", "list"}, strings.Fields(tc.args)...)
		r := invoke(t, args...)
		r.want(t, 0)
		got := map[string]bool{}
		for _, o := range r.objects(t) {
			name, _ := o["method"].(string)
			got[strings.TrimPrefix(name, "/shop.v1.Orders/")] = true
		}
		for name := range strings.FieldsSeq(tc.want) {
			if !got[name] {
				t.Errorf("%s does not list %s", tc.args, name)
			}
			delete(got, name)
		}
		if len(got) > 0 {
			t.Errorf("%s lists %v too", tc.args, got)
		}
	}
	invoke(t, "-store=bolt:"+path, "list").want(t, 0, "lease_left          -")
	invoke(t, "-store=bolt:"+path, "list", "-state=all").want(t, 0, "\n\nid                  ")
	invoke(t, "-store=bolt:"+path, "list", "-older=1h").want(t, 0, "no records\n")
}

func TestResponseIsPrintedOnRequestAlone(t *testing.T) {
	t.Parallel()
	detail, err := anypb.New(&errdetails.ErrorInfo{Reason: "SOLD_OUT"})
	if err != nil {
		t.Fatal(err)
	}
	codec, flag := newSealKey(t)
	secret := &idempotency.Outcome{Response: []byte(response), ResponseType: "shop.v1.Order"}
	for name, tc := range map[string]struct {
		outcome *idempotency.Outcome
		codec   idempotency.Codec
		flag    string
		want    []string
	}{
		"success": {outcome: secret, want: []string{"code                OK", "response_type       shop.v1.Order", "response            " + base64.StdEncoding.EncodeToString([]byte(response))}},
		"omitted": {outcome: secret.Shortened(), want: []string{"response_omitted    true"}},
		"failure": {
			outcome: &idempotency.Outcome{Status: &status.Status{Code: 9, Message: response, Details: []*anypb.Any{detail}}},
			want:    []string{"code                FAILED_PRECONDITION", "message             " + response, "type.googleapis.com/google.rpc.ErrorInfo"},
		},
		"sealed":     {outcome: secret, codec: codec, want: []string{"outcome_error       sealed"}},
		"opened":     {outcome: secret, codec: codec, flag: "-seal-key=" + flag, want: []string{base64.StdEncoding.EncodeToString([]byte(response))}},
		"not sealed": {outcome: secret, flag: "-seal-key=" + flag, want: []string{"outcome_error       ", "it is not sealed, and the codec has keys"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := newBolt(t, func(store idempotency.Inspector) {
				complete(t, store, begin(t, store, "", method, time.Hour), tc.codec, tc.outcome)
			})
			args := []string{"-store=bolt:" + path, "find", "-hash", key.Hash()}
			if tc.flag != "" {
				args = append(args, tc.flag)
			}
			if r := invoke(t, args...); r.code != 0 || strings.Contains(r.out, "code  ") {
				t.Errorf("without -response:\n%s", r.out)
			}
			invoke(t, append(args, "-response")...).want(t, 0, tc.want...)
			r := invoke(t, append(args, "-response", "-json")...)
			r.want(t, 0)
			if o := r.objects(t)[0]; o["code"] == nil && o["outcome_error"] == nil {
				t.Error(r.out)
			}
		})
	}
}

func TestCheckpointIsPrintedAsFarAsItCanBeRead(t *testing.T) {
	t.Parallel()
	codec, flag := newSealKey(t)
	path := newBolt(t, func(store idempotency.Inspector) {
		save(t, store, begin(t, store, "", "/shop.v1.Orders/Text", time.Hour), idempotency.Codec{}, "charged c-42, für Ada")
		save(t, store, begin(t, store, "", "/shop.v1.Orders/Bytes", time.Hour), idempotency.Codec{}, "\x00\x01")
		save(t, store, begin(t, store, "", "/shop.v1.Orders/Sealed", time.Hour), codec, "charged c-43")
		if err := store.Save(t.Context(), begin(t, store, "", "/shop.v1.Orders/Damaged", time.Hour), []byte("hbo1damaged")); err != nil {
			t.Fatal(err)
		}
	})
	for _, tc := range []struct{ method, flag, encoding, text string }{
		{"Text", "-json", "text", "charged c-42, für Ada"},
		{"Bytes", "-json", "base64", "AAE="},
		{"Sealed", "-json", "sealed", ""},
		{"Sealed", "-seal-key=" + flag, "text", "charged c-43"},
		{"Damaged", "-json", "error", "idempotency: the record cannot be read: its checkpoint: its checksum is wrong"},
	} {
		r := invoke(t, "-json", "-store=bolt:"+path, "find", "-method=/shop.v1.Orders/"+tc.method, "-key="+string(key), tc.flag)
		r.want(t, 0)
		if o := r.objects(t)[0]; o["checkpoint_encoding"] != tc.encoding || o["checkpoint"] != tc.text {
			t.Errorf("%s: %s", tc.method, r.out)
		}
	}
}

// What a store contains may be anything.
func TestNothingPrintedControlsATerminal(t *testing.T) {
	t.Parallel()
	path := newBolt(t, func(store idempotency.Inspector) {
		begin(t, store, "", "/shop\x1b[2J\nstate released", time.Hour)
	})
	r := invoke(t, "-store=bolt:"+path, "list", "-older=0s")
	r.want(t, 0, "method              /shop\ufffd[2J\ufffdstate released\n")
}

// A record that cannot be read is named, and the others are listed all the same.
func TestListGoesOnAfterARecordThatCannotBeRead(t *testing.T) {
	t.Parallel()
	server := services.Redis(t)
	client, err := rueidis.NewClient(redisstore.ClientOption(rueidis.ClientOption{InitAddress: []string{server.Addr}}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	store, err := redisstore.New(client)
	if err != nil {
		t.Fatal(err)
	}
	corrupt := begin(t, store, "", "/shop.v1.Orders/Corrupt", time.Hour)
	begin(t, store, "", "/shop.v1.Orders/Sound", time.Hour)
	if err := client.Do(t.Context(), client.B().Set().Key("hopbound:"+corrupt.ID.String()).Value("text").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	invoke(t, "-store=redis://"+server.Addr, "list", "-state=all").want(t, 1, "/shop.v1.Orders/Sound", "record "+corrupt.ID.String())
}
