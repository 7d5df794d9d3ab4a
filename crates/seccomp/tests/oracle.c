/*
 * What libseccomp makes of a profile. Reads, as words:
 *   default CODE ARCHS ARCH...       begins a filter (ARCHS tokens of libseccomp)
 *   rule CODE NAME COUNT (INDEX OPERATOR VALUE VALUETWO)...
 *   end                              writes "program N" and N lines of four numbers
 *   knows NAME                       writes "yes" or "no"
 * A rule that libseccomp refuses is answered by "refused NAME ERRNO" before the program.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void fail(const char *what)
{
	fprintf(stderr, "oracle: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void export(scmp_filter_ctx ctx)
{
	struct sock_filter step;
	off_t size;
	int fd = memfd_create("bpf", 0);

	if (fd < 0 || seccomp_export_bpf(ctx, fd) != 0)
		fail("export");
	size = lseek(fd, 0, SEEK_END);
	lseek(fd, 0, SEEK_SET);
	printf("program %zu\n", (size_t)size / sizeof(step));
	while (read(fd, &step, sizeof(step)) == sizeof(step))
		printf("%u %u %u %u\n", step.code, step.jt, step.jf, step.k);
	fflush(stdout);
	close(fd);
}

int main(void)
{
	scmp_filter_ctx ctx = NULL;
	char word[64], name[128];

	while (scanf("%63s", word) == 1) {
		if (strcmp(word, "default") == 0) {
			uint32_t code, arch;
			int count, native = 0;

			if (scanf("%" SCNu32 " %d", &code, &count) != 2)
				fail("default");
			ctx = seccomp_init(code);
			if (ctx == NULL)
				fail("init");
			while (count-- > 0) {
				if (scanf("%" SCNu32, &arch) != 1)
					fail("arch");
				if (arch == seccomp_arch_native())
					native = 1;
				else if (seccomp_arch_add(ctx, arch) != 0)
					fail("add an architecture");
			}
			if (!native)
				seccomp_arch_remove(ctx, SCMP_ARCH_NATIVE);
		} else if (strcmp(word, "rule") == 0) {
			struct scmp_arg_cmp args[6];
			uint32_t code;
			unsigned int count, i;
			int number, rc;

			if (scanf("%" SCNu32 " %127s %u", &code, name, &count) != 3 || count > 6)
				fail("rule");
			for (i = 0; i < count; i++) {
				uint64_t a, b;
				unsigned int index, op;

				if (scanf("%u %u %" SCNu64 " %" SCNu64, &index, &op, &a, &b) != 4)
					fail("argument");
				args[i] = (struct scmp_arg_cmp){ index, op, a, b };
			}
			number = seccomp_syscall_resolve_name(name);
			if (number == __NR_SCMP_ERROR)
				fail(name);
			rc = seccomp_rule_add_array(ctx, code, number, count, args);
			if (rc != 0)
				printf("refused %s %d\n", name, -rc);
		} else if (strcmp(word, "end") == 0) {
			export(ctx);
			seccomp_release(ctx);
			ctx = NULL;
		} else if (strcmp(word, "knows") == 0) {
			if (scanf("%127s", name) != 1)
				fail("knows");
			puts(seccomp_syscall_resolve_name(name) == __NR_SCMP_ERROR ? "no" : "yes");
			fflush(stdout);
		} else {
			fail(word);
		}
	}
	return 0;
}
