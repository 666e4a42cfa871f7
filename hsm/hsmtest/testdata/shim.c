/*
 * A PKCS#11 module that forwards every call to another one and, where its
 * control file says so, answers with a code of its own or answers late. It
 * lets a test pull a token, lock a PIN or kill a session at a chosen call.
 *
 * POSTERN_SHIM_MODULE   the module behind it
 * POSTERN_SHIM_CONTROL  the control file, read again at each call; missing or
 *                       empty: everything is forwarded untouched
 *
 * Lines of the control file; the first line that is due wins:
 *
 *   C_Sign 0x32 2         the next two calls answer CKR_DEVICE_REMOVED
 *   C_Sign 0x90 1 3       the fourth call does (three are let pass)
 *   C_Sign 0x32           every call does
 *   C_Sign delay 2000     every call is forwarded 2000 ms late
 *   C_Sign delay 2000 1   the next one is
 *   C_GetTokenInfo flags 0x40000
 *                         the answer of the module gets these flags besides
 *                         (CKF_USER_PIN_LOCKED); only for this function
 *   C_GetAttributeValue trim
 *                         CKA_VALUE comes without the zeros that it begins
 *                         with; only for this function
 *   * 0x32                every function but C_Initialize and C_Finalize
 *   # words               a comment; a changed file starts all counts anew
 *
 * A delay and a code for the same call add up. A call that is answered by
 * the shim never reaches the module. If "<control>.calls" exists, the name of
 * each function that is called is appended to it, one on each line.
 *
 * Every argument of PKCS#11 is a pointer or an unsigned long (CK_BBOOL, once,
 * travels in a register of that width), so all are passed on as words. That
 * holds for the 64-bit calling conventions of amd64 and arm64.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long word;

#define CKR_GENERAL_ERROR 0x05UL
#define CKA_VALUE 0x11UL
#define CK_UNAVAILABLE_INFORMATION (~0UL)
#define FUNCTIONS 68
#define RULES 32
#define CONTROL 4096

struct function_list {
	unsigned char version[2];
	void *call[FUNCTIONS];
};

struct rule {
	char name[40];
	enum { CODE, DELAY, FLAGS } kind;
	unsigned long value; /* code, milliseconds, or flags */
	long count;          /* calls that are still hit, -1: all */
	long skip;           /* calls that are let pass first */
};

static struct function_list *real, mine;
static struct rule rules[RULES];
static int nrules;
static char seen[CONTROL];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void parse(const char *text)
{
	char copy[CONTROL], *save = NULL, *line;

	nrules = 0;
	snprintf(copy, sizeof copy, "%s", text);
	for (line = strtok_r(copy, "\n", &save); line && nrules < RULES; line = strtok_r(NULL, "\n", &save)) {
		struct rule *r = &rules[nrules];
		char what[24];
		long a = -1, b = 0;

		memset(r, 0, sizeof *r);
		if (line[0] == '#' || sscanf(line, "%39s %23s", r->name, what) != 2)
			continue;
		if (strcmp(what, "delay") == 0) {
			if (sscanf(line, "%*s %*s %lu %ld %ld", &r->value, &a, &b) < 1)
				continue;
			r->kind = DELAY;
		} else if (strcmp(what, "flags") == 0) {
			if (sscanf(line, "%*s %*s %li %ld %ld", (long *)&r->value, &a, &b) < 1)
				continue;
			r->kind = FLAGS;
		} else if (strcmp(what, "trim") == 0) {
			r->kind = FLAGS;
			r->value = 1;
			(void)!sscanf(line, "%*s %*s %ld %ld", &a, &b);
		} else {
			r->value = strtoul(what, NULL, 0);
			(void)!sscanf(line, "%*s %*s %ld %ld", &a, &b);
		}
		r->count = a;
		r->skip = b;
		nrules++;
	}
}

static void record(const char *control, const char *name)
{
	char path[1024], text[48];
	int fd, n;

	snprintf(path, sizeof path, "%s.calls", control);
	if ((fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC)) < 0)
		return;
	n = snprintf(text, sizeof text, "%s\n", name);
	(void)!write(fd, text, n);
	close(fd);
}

/*
 * due says what is to happen to this call: the code to answer, or 0, and in
 * flags what a token's are to have besides, or whether values are trimmed.
 */
static word due(const char *name, word *flags)
{
	const char *control = getenv("POSTERN_SHIM_CONTROL");
	char text[CONTROL] = "";
	unsigned long wait = 0;
	word code = 0;
	int i, fd, whole;

	if (!control)
		return 0;
	whole = strcmp(name, "C_Initialize") && strcmp(name, "C_Finalize");
	pthread_mutex_lock(&lock);
	if ((fd = open(control, O_RDONLY | O_CLOEXEC)) >= 0) {
		ssize_t n = read(fd, text, sizeof text - 1);
		text[n > 0 ? n : 0] = 0;
		close(fd);
	}
	if (strcmp(text, seen) != 0) {
		memcpy(seen, text, sizeof seen);
		parse(text);
	}
	record(control, name);
	for (i = 0; i < nrules; i++) {
		struct rule *r = &rules[i];

		if (strcmp(r->name, name) != 0 && !(whole && strcmp(r->name, "*") == 0))
			continue;
		if (r->skip > 0) {
			r->skip--;
			continue;
		}
		if (r->count == 0 || (code && r->kind == CODE))
			continue;
		if (r->count > 0)
			r->count--;
		switch (r->kind) {
		case DELAY:
			wait += r->value;
			break;
		case FLAGS:
			*flags |= r->value;
			break;
		default:
			code = r->value;
		}
	}
	pthread_mutex_unlock(&lock);
	if (wait) {
		struct timespec t = { wait / 1000, (wait % 1000) * 1000000L };
		nanosleep(&t, NULL);
	}
	return code;
}

#define GO(n, proto, args, name) \
	static word shim_##n proto { \
		word flags = 0, code = due(#name, &flags); \
		return code ? code : ((word (*) proto)real->call[n]) args; \
	}
#define F1(n, name) GO(n, (word a), (a), name)
#define F2(n, name) GO(n, (word a, word b), (a, b), name)
#define F3(n, name) GO(n, (word a, word b, word c), (a, b, c), name)
#define F4(n, name) GO(n, (word a, word b, word c, word d), (a, b, c, d), name)
#define F5(n, name) GO(n, (word a, word b, word c, word d, word e), (a, b, c, d, e), name)
#define F6(n, name) GO(n, (word a, word b, word c, word d, word e, word f), (a, b, c, d, e, f), name)
#define F8(n, name) GO(n, (word a, word b, word c, word d, word e, word f, word g, word h), (a, b, c, d, e, f, g, h), name)

/* The flags of CK_TOKEN_INFO stand after its four names: 32+32+16+16 bytes. */
#define FToken(n, name) \
	static word shim_##n(word slot, word info) \
	{ \
		word flags = 0, code = due(#name, &flags); \
		if (!code) \
			code = ((word (*)(word, word))real->call[n])(slot, info); \
		if (!code && info) \
			*(word *)(info + 96) |= flags; \
		return code; \
	}

/* CK_ATTRIBUTE is three words: type, value, length of the value. */
#define FValue(n, name) \
	static word shim_##n(word session, word object, word list, word count) \
	{ \
		word flags = 0, code = due(#name, &flags), *a = (word *)list; \
		if (!code) \
			code = ((word (*)(word, word, word, word))real->call[n])(session, object, list, count); \
		for (; !code && flags && count > 0; count--, a += 3) { \
			unsigned char *v = (unsigned char *)a[1]; \
			while (a[0] == CKA_VALUE && v && a[2] != CK_UNAVAILABLE_INFORMATION && a[2] > 0 && v[0] == 0) \
				memmove(v, v + 1, --a[2]); \
		} \
		return code; \
	}

/* The order of CK_FUNCTION_LIST, PKCS#11 v2.40 §3.6. */
#define EACH \
	X(1, 0, C_Initialize) X(1, 1, C_Finalize) X(1, 2, C_GetInfo) \
	X(3, 4, C_GetSlotList) X(2, 5, C_GetSlotInfo) X(Token, 6, C_GetTokenInfo) \
	X(3, 7, C_GetMechanismList) X(3, 8, C_GetMechanismInfo) X(4, 9, C_InitToken) \
	X(3, 10, C_InitPIN) X(5, 11, C_SetPIN) X(5, 12, C_OpenSession) \
	X(1, 13, C_CloseSession) X(1, 14, C_CloseAllSessions) X(2, 15, C_GetSessionInfo) \
	X(3, 16, C_GetOperationState) X(5, 17, C_SetOperationState) X(4, 18, C_Login) \
	X(1, 19, C_Logout) X(4, 20, C_CreateObject) X(5, 21, C_CopyObject) \
	X(2, 22, C_DestroyObject) X(3, 23, C_GetObjectSize) X(Value, 24, C_GetAttributeValue) \
	X(4, 25, C_SetAttributeValue) X(3, 26, C_FindObjectsInit) X(4, 27, C_FindObjects) \
	X(1, 28, C_FindObjectsFinal) X(3, 29, C_EncryptInit) X(5, 30, C_Encrypt) \
	X(5, 31, C_EncryptUpdate) X(3, 32, C_EncryptFinal) X(3, 33, C_DecryptInit) \
	X(5, 34, C_Decrypt) X(5, 35, C_DecryptUpdate) X(3, 36, C_DecryptFinal) \
	X(2, 37, C_DigestInit) X(5, 38, C_Digest) X(3, 39, C_DigestUpdate) \
	X(2, 40, C_DigestKey) X(3, 41, C_DigestFinal) X(3, 42, C_SignInit) \
	X(5, 43, C_Sign) X(3, 44, C_SignUpdate) X(3, 45, C_SignFinal) \
	X(3, 46, C_SignRecoverInit) X(5, 47, C_SignRecover) X(3, 48, C_VerifyInit) \
	X(5, 49, C_Verify) X(3, 50, C_VerifyUpdate) X(3, 51, C_VerifyFinal) \
	X(3, 52, C_VerifyRecoverInit) X(5, 53, C_VerifyRecover) X(5, 54, C_DigestEncryptUpdate) \
	X(5, 55, C_DecryptDigestUpdate) X(5, 56, C_SignEncryptUpdate) X(5, 57, C_DecryptVerifyUpdate) \
	X(5, 58, C_GenerateKey) X(8, 59, C_GenerateKeyPair) X(6, 60, C_WrapKey) \
	X(8, 61, C_UnwrapKey) X(6, 62, C_DeriveKey) X(3, 63, C_SeedRandom) \
	X(3, 64, C_GenerateRandom) X(1, 65, C_GetFunctionStatus) X(1, 66, C_CancelFunction) \
	X(3, 67, C_WaitForSlotEvent)

#define X(args, n, name) F##args(n, name)
EACH
#undef X

word C_GetFunctionList(struct function_list **list)
{
	const char *path = getenv("POSTERN_SHIM_MODULE");
	word (*get)(struct function_list **);
	void *module;

	if (!real) {
		if (!path || !(module = dlopen(path, RTLD_NOW)))
			return CKR_GENERAL_ERROR;
		get = (word (*)(struct function_list **))dlsym(module, "C_GetFunctionList");
		if (!get || get(&real) != 0 || !real)
			return CKR_GENERAL_ERROR;
		mine = *real;
#define X(args, n, name) mine.call[n] = (void *)shim_##n;
		EACH
#undef X
		mine.call[3] = (void *)C_GetFunctionList;
	}
	*list = &mine;
	return 0;
}
