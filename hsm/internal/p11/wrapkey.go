package p11

/*
#include <dlfcn.h>
#include <stdlib.h>

// The list of functions of PKCS#11 v2.40: a version, then pointers.
struct functions {
	unsigned char version[2];
	void *call[68];
};

struct mechanism {
	unsigned long type;
	const void *parameter;
	unsigned long length;
};

enum { WRAP_KEY = 60, GENERAL_ERROR = 5 };

// wrap calls C_WrapKey of the library at path, which is loaded already.
static unsigned long wrap(const char *path, unsigned long session, unsigned long mechanism, const void *parameter, unsigned long length,
	unsigned long wrapping, unsigned long key, unsigned char *out, unsigned long *size)
{
	unsigned long (*get)(struct functions **);
	unsigned long (*call)(unsigned long, struct mechanism *, unsigned long, unsigned long, unsigned char *, unsigned long *);
	struct functions *f = NULL;
	struct mechanism m = { mechanism, parameter, length };
	unsigned long answer = GENERAL_ERROR;
	void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD);

	if (!library)
		return answer;
	*(void **)&get = dlsym(library, "C_GetFunctionList");
	if (get && get(&f) == 0 && f) {
		*(void **)&call = f->call[WRAP_KEY];
		answer = call(session, &m, wrapping, key, out, size);
	}
	dlclose(library);
	return answer;
}
*/
import "C"

import (
	"bytes"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// maxWrapped is the longest ciphertext of a private key, in bytes: that of
// RSA-4096 has 2384.
const maxWrapped = 4 << 10

// wrapKey is C_WrapKey in one call, with room for every key. The binding below
// asks for the length first, and what NSS answers is too short.
func (m *module) wrapKey(s pkcs11.SessionHandle, mech *pkcs11.Mechanism, wrapping, key pkcs11.ObjectHandle) ([]byte, error) {
	path := C.CString(m.path)
	defer C.free(unsafe.Pointer(path))
	var parameter unsafe.Pointer
	if n := len(mech.Parameter); n > 0 {
		parameter = C.CBytes(mech.Parameter)
		defer C.free(parameter)
	}
	out := C.malloc(maxWrapped)
	defer C.free(out)
	defer clear(unsafe.Slice((*byte)(out), maxWrapped))
	size := C.ulong(maxWrapped)
	if code := C.wrap(path, C.ulong(s), C.ulong(mech.Mechanism), parameter, C.ulong(len(mech.Parameter)), C.ulong(wrapping), C.ulong(key), (*C.uchar)(out), &size); code != 0 {
		return nil, pkcs11.Error(code)
	}
	if size == 0 || size > maxWrapped {
		return nil, pkcs11.Error(pkcs11.CKR_WRAPPED_KEY_LEN_RANGE)
	}
	return bytes.Clone(unsafe.Slice((*byte)(out), int(size))), nil
}
