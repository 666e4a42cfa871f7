package p11

/*
#include <stdlib.h>
#include <string.h>

struct attribute {
	unsigned long type;
	void *value;
	unsigned long length;
};

// flags makes n attributes of one byte each, in one piece of memory.
static void *flags(unsigned long n, const unsigned long *types, const unsigned char *values)
{
	struct attribute *a = malloc(n * sizeof *a + n);
	unsigned char *v;
	unsigned long i;

	if (!a)
		return NULL;
	v = (unsigned char *)(a + n);
	memcpy(v, values, n);
	for (i = 0; i < n; i++) {
		a[i].type = types[i];
		a[i].value = v + i;
		a[i].length = 1;
	}
	return a;
}
*/
import "C"

import (
	"unsafe"

	"github.com/miekg/pkcs11"
)

// flag is an attribute that is true or false.
type flag struct {
	typ   uint
	value bool
}

// nested is an attribute whose value is a template of flags, which the binding
// below cannot make. The template lives in C memory until free.
func nested(typ uint, flags []flag) (a *pkcs11.Attribute, free func()) {
	types, values := make([]C.ulong, len(flags)), make([]C.uchar, len(flags))
	for i, f := range flags {
		types[i] = C.ulong(f.typ)
		if f.value {
			values[i] = 1
		}
	}
	p := C.flags(C.ulong(len(flags)), &types[0], &values[0])
	if p == nil {
		return pkcs11.NewAttribute(typ, nil), func() {}
	}
	size := len(flags) * int(unsafe.Sizeof(C.struct_attribute{}))
	return pkcs11.NewAttribute(typ, C.GoBytes(p, C.int(size))), func() { C.free(p) }
}

// of makes attributes of flags.
func of(flags []flag) []*pkcs11.Attribute {
	list := make([]*pkcs11.Attribute, len(flags))
	for i, f := range flags {
		list[i] = pkcs11.NewAttribute(f.typ, f.value)
	}
	return list
}
