package metrics

import (
	"reflect"
	"testing"

	"github.com/zmqgrace/zmqgrace"
)

func TestEveryCountIsAddedUp(t *testing.T) {
	var one zmqgrace.SocketReport
	counts := reflect.ValueOf(&one).Elem()
	for i := range counts.NumField() {
		if f := counts.Field(i); f.CanSet() && f.Kind() == reflect.Int {
			f.SetInt(int64(1 + i))
		}
	}
	all := bySocket([]zmqgrace.SocketReport{one, one, one})
	if len(all) != 1 {
		t.Fatalf("three sockets of one name make %d series", len(all))
	}
	sum := reflect.ValueOf(all[0].counts)
	for i := range counts.NumField() {
		name := counts.Type().Field(i).Name
		if f := counts.Field(i); f.CanSet() && f.Kind() == reflect.Int && name != "Type" && sum.Field(i).Int() != 3*f.Int() {
			t.Errorf("%s is %d, want %d", name, sum.Field(i).Int(), 3*f.Int())
		}
	}
}
