/* A plugin for QEMU's user-mode emulators: counts the instructions that a program executes, in all and by function.
 *
 *   gcc -O2 -shared -fPIC scripts/icount.c -o libicount.so
 *   qemu-aarch64 -cpu cortex-a53 -plugin ./libicount.so,top=30 PROGRAM ...        counts go to standard error at exit, or to out=FILE
 *
 * It declares what it needs of the plugin interface, version 1, itself: Debian ships the emulators without the header. Instructions are
 * counted by blocks as QEMU translates them, and by the symbol of a block's first instruction: exact in all, and by function as good as
 * the program's symbols are. */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);

#define SHOWN __attribute__((visibility("default")))
SHOWN int qemu_plugin_version = 1;

/* A function and what it executed. QEMU adds to `count` from translated code, so an entry never moves. */
struct entry {
    char *name;
    uint64_t count;
    struct entry *next;
};

enum { BUCKETS = 4096 };
static struct entry *table[BUCKETS];
static size_t entries;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t top;
static char *out;

static struct entry *find(const char *name)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (const char *p = name; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 16777619u;
    struct entry **bucket = &table[hash % BUCKETS];
    for (struct entry *e = *bucket; e; e = e->next)
        if (!strcmp(e->name, name))
            return e;
    struct entry *e = calloc(1, sizeof *e);
    if (!e || !(e->name = strdup(name)))
        abort();
    e->next = *bucket;
    *bucket = e;
    entries++;
    return e;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    const char *name = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(block, 0));
    pthread_mutex_lock(&lock);
    struct entry *e = find(name && *name ? name : "?");
    pthread_mutex_unlock(&lock);
    qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &e->count, qemu_plugin_tb_n_insns(block));
}

static int more_first(const void *a, const void *b)
{
    uint64_t x = (*(struct entry *const *)a)->count, y = (*(struct entry *const *)b)->count;
    return (x < y) - (x > y);
}

static void at_exit(qemu_plugin_id_t id, void *data)
{
    (void)id, (void)data;
    struct entry **all = calloc(entries + 1, sizeof *all);
    uint64_t total = 0;
    size_t n = 0;
    for (size_t i = 0; all && i < BUCKETS; i++)
        for (struct entry *e = table[i]; e; e = e->next) {
            total += e->count;
            all[n++] = e;
        }
    qsort(all, n, sizeof *all, more_first);
    FILE *f = out ? fopen(out, "w") : stderr;
    if (!f)
        f = stderr;
    fprintf(f, "icount total %llu\n", (unsigned long long)total);
    for (size_t i = 0; i < n && i < top; i++)
        fprintf(f, "icount %14llu %5.1f%% %s\n", (unsigned long long)all[i]->count, 100.0 * (double)all[i]->count / (double)total, all[i]->name);
    fflush(f);
}

SHOWN int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "top=", 4))
            top = (size_t)atoi(argv[i] + 4);
        else if (!strncmp(argv[i], "out=", 4))
            out = strdup(argv[i] + 4);
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
