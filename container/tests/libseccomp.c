/* Has libseccomp make a filter. Standard input: the default action, then lines of an action, a system call, and the
 * number of comparisons with an argument, an operator and two values each. Standard output: the program. */
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* From what a filter returns to what libseccomp takes: they are the same but for the killing of a thread. */
static uint32_t action(uint32_t value) {
    return value == 0 ? SCMP_ACT_KILL_THREAD : value;
}

int main(void) {
    uint32_t value;
    if (scanf("%u", &value) != 1) {
        return 1;
    }
    scmp_filter_ctx filter = seccomp_init(action(value));
    int call;
    unsigned count;
    while (scanf("%u %d %u", &value, &call, &count) == 3) {
        struct scmp_arg_cmp comparisons[6];
        for (unsigned index = 0; index < count; index++) {
            unsigned argument, operator;
            unsigned long first, second;
            if (scanf("%u %u %lu %lu", &argument, &operator, &first, &second) != 4) {
                return 1;
            }
            comparisons[index] = SCMP_CMP64(argument, operator, first, second);
        }
        int result = seccomp_rule_add_array(filter, action(value), call, count, comparisons);
        if (result != 0) {
            fprintf(stderr, "rule for %d: %d\n", call, result);
            return 1;
        }
    }
    return seccomp_export_bpf(filter, STDOUT_FILENO) != 0;
}
