/* The runtime that clang's instrumentation asks for (-fprofile-generate), and the writer of what it
 * counted: a raw profile in memory, which the host reads and llvm-profdata merges. There is no file
 * to write to in a guest, and no profile library for wasm in the toolchain's packages; the layout of
 * every structure comes from the header of the very compiler that instruments. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "boundary.h"

#include <profile/InstrProfData.inc>
#define INSTR_PROF_VALUE_PROF_DATA
#include <profile/InstrProfData.inc>
#define INSTR_PROF_VALUE_PROF_MEMOP_API
#include <profile/InstrProfData.inc>
#undef INSTR_PROF_VALUE_PROF_MEMOP_API

typedef void *IntPtrT;

typedef struct {
#define INSTR_PROF_RAW_HEADER(Type, Name, Initializer) Type Name;
#include <profile/InstrProfData.inc>
} Header;

enum {
#define VALUE_PROF_KIND(Name, Value, Text) Name = Value,
#include <profile/InstrProfData.inc>
};

typedef struct __attribute__((aligned(INSTR_PROF_DATA_ALIGNMENT))) {
#define INSTR_PROF_DATA(Type, LLVMType, Name, Initializer) Type Name;
#include <profile/InstrProfData.inc>
} Function;

typedef struct Node *PtrToNodeT;
typedef struct Node {
#define INSTR_PROF_VALUE_NODE(Type, LLVMType, Name, Initializer) Type Name;
#include <profile/InstrProfData.inc>
} Node;

/* The sections of all object files, put together by the linker. */
#define SECTION(Type, name)              \
  extern Type __start___llvm_prf_##name[]; \
  extern Type __stop___llvm_prf_##name[]
SECTION(Function, data);
SECTION(uint64_t, cnts);
SECTION(char, names);
#define COUNT(name) (size_t)(__stop___llvm_prf_##name - __start___llvm_prf_##name)

/* Set by the compiler: the format's version, and that it counts in the intermediate language. */
extern uint64_t INSTR_PROF_RAW_VERSION_VAR;

/* Instrumented files refer to it, so that a runtime is linked. */
int INSTR_PROF_PROFILE_RUNTIME_VAR;

/* A clang before 20 does not know that wasm's linker puts sections together, and announces each part. */
void __llvm_profile_register_function(void *function) { (void)function; }
void __llvm_profile_register_names_function(void *names, uint64_t length) { (void)names, (void)length; }

/* -- values: which function an indirect call reached, how long a copy was ------------------------- */

/* Values remembered at one place. Later ones are not counted: the first in a fixed program are the
 * same each time. */
#define VALUES_PER_SITE 32

static void count_value(Function *function, uint32_t site, uint64_t value) {
  if (function->Values == NULL) {
    uint32_t sites = 0;
    for (int kind = IPVK_First; kind <= IPVK_Last; kind++) sites += function->NumValueSites[kind];
    function->Values = calloc(sites, sizeof(Node *));
    if (function->Values == NULL) __builtin_trap();
  }
  Node **next = (Node **)function->Values + site;
  for (int values = 0; *next != NULL; next = &(*next)->Next) {
    if ((*next)->Value == value) {
      (*next)->Count++;
      return;
    }
    if (++values == VALUES_PER_SITE) return;
  }
  *next = calloc(1, sizeof(Node));
  if (*next == NULL) __builtin_trap();
  (*next)->Value = value;
  (*next)->Count = 1;
}

void INSTR_PROF_VALUE_PROF_FUNC(uint64_t value, void *function, uint32_t site) {
  count_value(function, site, value);
}

void INSTR_PROF_VALUE_PROF_MEMOP_FUNC(uint64_t length, void *function, uint32_t site) {
  count_value(function, site, InstrProfGetRangeRepValue(length));
}

/* -- the raw profile -------------------------------------------------------------------------------- */

static struct {
  unsigned char *bytes;
  uint32_t length, room;
} out;

static void put(const void *data, size_t length) {
  if (out.length + length > out.room) {
    out.room = 2 * (out.room + length);
    out.bytes = realloc(out.bytes, out.room);
    if (out.bytes == NULL) __builtin_trap();
  }
  memcpy(out.bytes + out.length, data, length);
  out.length += length;
}

static void put_padding(void) {
  static const char zeros[8];
  put(zeros, -out.length % sizeof zeros);
}

static int count_nodes(const Node *node) {
  int count = 0;
  for (; node != NULL; node = node->Next) count++;
  return count;
}

/* A function's values of one kind: kind, number of places, a byte for each with how many values it
 * has; then all values with their counts. */
static void put_values_of_kind(Node **sites, uint32_t kind, uint32_t sites_n) {
  put(&kind, sizeof kind);
  put(&sites_n, sizeof sites_n);
  for (uint32_t k = 0; k < sites_n; k++) {
    unsigned char count = sites ? count_nodes(sites[k]) : 0;
    put(&count, 1);
  }
  put_padding();
  for (uint32_t k = 0; k < sites_n; k++) {
    for (const Node *node = sites ? sites[k] : NULL; node != NULL; node = node->Next) {
      put(&(InstrProfValueData){node->Value, node->Count}, sizeof(InstrProfValueData));
    }
  }
}

static void put_values(const Function *function) {
  Node **sites = (Node **)function->Values;
  ValueProfData head = {0};
  for (int kind = IPVK_First; kind <= IPVK_Last; kind++) head.NumValueKinds += function->NumValueSites[kind] != 0;
  if (head.NumValueKinds == 0) return;
  uint32_t start = out.length;
  put(&head, sizeof head);
  for (int kind = IPVK_First; kind <= IPVK_Last; kind++) {
    uint32_t count = function->NumValueSites[kind];
    if (count == 0) continue;
    put_values_of_kind(sites, kind, count);
    if (sites != NULL) sites += count;
  }
  head.TotalSize = out.length - start;
  memcpy(out.bytes + start, &head, sizeof head);
}

/* Names that the format's header is filled with. */
#define __llvm_profile_get_magic() (sizeof(void *) == 8 ? INSTR_PROF_RAW_MAGIC_64 : INSTR_PROF_RAW_MAGIC_32)
#define __llvm_profile_get_version() INSTR_PROF_RAW_VERSION_VAR
#define __llvm_write_binary_ids(writer) 0

/* Writes the raw profile; returns where its address and its length are. */
RLM_EXPORT(rlm_profile) void *rlm_profile(void) {
  const Function *DataBegin = __start___llvm_prf_data;
  const uint64_t *CountersBegin = __start___llvm_prf_cnts;
  const char *NamesBegin = __start___llvm_prf_names, *BitmapBegin = NULL;
  const uint64_t NumData = COUNT(data), NumCounters = COUNT(cnts), NamesSize = COUNT(names);
  /* No coverage bitmaps and no virtual tables: this is C. */
  const uint64_t PaddingBytesBeforeCounters = 0, PaddingBytesAfterCounters = 0, NumBitmapBytes = 0;
  const uint64_t PaddingBytesAfterBitmapBytes = 0, NumVTables = 0, VNamesSize = 0;
  Header header = {
#define INSTR_PROF_RAW_HEADER(Type, Name, Initializer) .Name = Initializer,
#include <profile/InstrProfData.inc>
  };
  out.length = 0;
  put(&header, sizeof header);
  put(DataBegin, NumData * sizeof *DataBegin);
  put(CountersBegin, NumCounters * sizeof *CountersBegin);
  put(NamesBegin, NamesSize);
  put_padding();
  for (uint64_t k = 0; k < NumData; k++) put_values(DataBegin + k);
  return &out;
}
