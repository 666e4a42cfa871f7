package p11

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

// check loads the library for good and asks it for its functions. NULL is
// well; otherwise the cause, which the caller frees.
static char *check(const char *path)
{
	unsigned long (*get)(void **);
	void *functions = NULL, *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);

	if (!library)
		return strdup(dlerror());
	*(void **)&get = dlsym(library, "C_GetFunctionList");
	if (!get) {
		dlclose(library);
		return strdup("it exports no C_GetFunctionList");
	}
	if (get(&functions) != 0 || !functions) {
		dlclose(library);
		return strdup("C_GetFunctionList gives no functions");
	}
	if (!dlopen(path, RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD | RTLD_NODELETE))
		return strdup(dlerror());
	return NULL;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"path/filepath"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// ErrModule is a library that is no PKCS#11 module, or cannot be loaded.
// Waiting does not help; the configuration is wrong.
var ErrModule = errors.New("no usable PKCS#11 module")

// check says why path cannot be a module. The binding below reports no cause,
// and calls through a null pointer when C_GetFunctionList fails. The library
// stays loaded from here on: some modules do not survive being unloaded.
func check(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("load module %q: %w: the path is not absolute", path, ErrModule)
	}
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	if cause := C.check(p); cause != nil {
		defer C.free(unsafe.Pointer(cause))
		return fmt.Errorf("load module %s: %w: %s", path, ErrModule, C.GoString(cause))
	}
	return nil
}

// reserved is the C string for pReserved of C_Initialize, and what frees it.
func reserved(words string) (options []pkcs11.InitializeOption, free func()) {
	if words == "" {
		return nil, func() {}
	}
	p := unsafe.Pointer(C.CString(words))
	return []pkcs11.InitializeOption{pkcs11.InitializeWithReserved(p)}, func() { C.free(p) }
}
