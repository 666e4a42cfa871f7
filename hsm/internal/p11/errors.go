package p11

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"postern/hsm"
)

// meaning is the one place where the words of a module become those of package
// hsm. What is not listed counts as hsm.ErrAway: a module that says something
// unforeseen is better opened anew than trusted.
var meaning = map[uint]error{
	pkcs11.CKR_PIN_INCORRECT: hsm.ErrPIN,
	pkcs11.CKR_PIN_INVALID:   hsm.ErrPIN,
	pkcs11.CKR_PIN_LEN_RANGE: hsm.ErrPIN,
	pkcs11.CKR_PIN_EXPIRED:   hsm.ErrPIN,
	pkcs11.CKR_PIN_LOCKED:    hsm.ErrPIN,
	pkcs11.CKR_PIN_TOO_WEAK:  hsm.ErrPIN,

	pkcs11.CKR_USER_PIN_NOT_INITIALIZED: hsm.ErrEmpty,

	pkcs11.CKR_SESSION_COUNT: hsm.ErrBusy,

	pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED: hsm.ErrRefused,
	pkcs11.CKR_ACTION_PROHIBITED:          hsm.ErrRefused,

	pkcs11.CKR_ARGUMENTS_BAD:                  hsm.ErrInvalid,
	pkcs11.CKR_ATTRIBUTE_READ_ONLY:            hsm.ErrInvalid,
	pkcs11.CKR_ATTRIBUTE_TYPE_INVALID:         hsm.ErrInvalid,
	pkcs11.CKR_ATTRIBUTE_VALUE_INVALID:        hsm.ErrInvalid,
	pkcs11.CKR_CURVE_NOT_SUPPORTED:            hsm.ErrInvalid,
	pkcs11.CKR_DOMAIN_PARAMS_INVALID:          hsm.ErrInvalid,
	pkcs11.CKR_FUNCTION_NOT_SUPPORTED:         hsm.ErrInvalid,
	pkcs11.CKR_KEY_SIZE_RANGE:                 hsm.ErrInvalid,
	pkcs11.CKR_KEY_TYPE_INCONSISTENT:          hsm.ErrInvalid,
	pkcs11.CKR_MECHANISM_INVALID:              hsm.ErrInvalid,
	pkcs11.CKR_TEMPLATE_INCOMPLETE:            hsm.ErrInvalid,
	pkcs11.CKR_TEMPLATE_INCONSISTENT:          hsm.ErrInvalid,
	pkcs11.CKR_DATA_INVALID:                   hsm.ErrOpaque,
	pkcs11.CKR_DATA_LEN_RANGE:                 hsm.ErrOpaque,
	pkcs11.CKR_ENCRYPTED_DATA_INVALID:         hsm.ErrOpaque,
	pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE:       hsm.ErrOpaque,
	pkcs11.CKR_MECHANISM_PARAM_INVALID:        hsm.ErrOpaque,
	pkcs11.CKR_BUFFER_TOO_SMALL:               hsm.ErrOpaque,
	pkcs11.CKR_PUBLIC_KEY_INVALID:             hsm.ErrOpaque,
	pkcs11.CKR_WRAPPED_KEY_INVALID:            hsm.ErrOpaque,
	pkcs11.CKR_WRAPPED_KEY_LEN_RANGE:          hsm.ErrOpaque,
	pkcs11.CKR_KEY_UNEXTRACTABLE:              hsm.ErrRefused,
	pkcs11.CKR_ATTRIBUTE_SENSITIVE:            hsm.ErrRefused,
	pkcs11.CKR_RANDOM_NO_RNG:                  hsm.ErrOpaque,
	pkcs11.CKR_TOKEN_WRITE_PROTECTED:          hsm.ErrRefused,
	pkcs11.CKR_SESSION_READ_ONLY:              hsm.ErrRefused,
	pkcs11.CKR_SESSION_PARALLEL_NOT_SUPPORTED: hsm.ErrInvalid,
}

// gone are the codes after which no handle and no session is worth anything.
// (General and device errors are not among them: a module may mean the input.)
var gone = []uint{
	pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED,
	pkcs11.CKR_DEVICE_ERROR,
	pkcs11.CKR_DEVICE_REMOVED,
	pkcs11.CKR_KEY_HANDLE_INVALID,
	pkcs11.CKR_OBJECT_HANDLE_INVALID,
	pkcs11.CKR_SESSION_CLOSED,
	pkcs11.CKR_SESSION_HANDLE_INVALID,
	pkcs11.CKR_SLOT_ID_INVALID,
	pkcs11.CKR_TOKEN_NOT_PRESENT,
	pkcs11.CKR_TOKEN_NOT_RECOGNIZED,
	pkcs11.CKR_USER_NOT_LOGGED_IN,
}

// fault words err, which came from doing verb, in the terms of package hsm.
// An error that is worded already keeps its word.
func fault(verb string, err error) error {
	if err == nil {
		return nil
	}
	var code pkcs11.Error
	if !errors.As(err, &code) {
		if worded(err) {
			return fmt.Errorf("%s: %w", verb, err)
		}
		return fmt.Errorf("%s: %w: %w", verb, hsm.ErrOpaque, err)
	}
	if worded(err) {
		return fmt.Errorf("%s: %w", verb, err)
	}
	word, ok := meaning[uint(code)]
	if !ok {
		word = hsm.ErrAway
	}
	return fmt.Errorf("%s: %w: %w", verb, word, err)
}

// worded reports whether err carries a refusal of package hsm.
func worded(err error) bool {
	for _, word := range []error{hsm.ErrAway, hsm.ErrLocked, hsm.ErrEmpty, hsm.ErrNoKey, hsm.ErrRefused, hsm.ErrBudget,
		hsm.ErrBusy, hsm.ErrInvalid, hsm.ErrExists, hsm.ErrPIN, hsm.ErrOpaque, hsm.ErrBroken, ErrModule} {
		if errors.Is(err, word) {
			return true
		}
	}
	return false
}

// is reports whether err is one of the module's codes.
func is(err error, codes ...uint) bool {
	var e pkcs11.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if uint(e) == c {
			return true
		}
	}
	return false
}
