/* A function of 100,000 instructions, of which each input line has the last twelve executed. */
#include <stdio.h>

#define ADDITIONS 99998
#define EXECUTED 10
#define TEXT(x) #x
#define NUMBER(x) TEXT(x)

/* Adds one by each of its instructions, of four bytes, but the last two. */
long many(long number);
__asm__(".text\n.globl many\n.type many, @function\n"
        "many:\n.rept " NUMBER(ADDITIONS) "\nlea 1(%rdi), %rdi\n.endr\nmov %rdi, %rax\nret\n"
        ".size many, . - many\n");

int main(void) {
	char line[16];
	long (*last)(long) = (long (*)(long))((char *)many + 4 * (ADDITIONS - EXECUTED));
	long sum = 0;
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		sum = last(sum);
		printf("%ld\n", sum);
		fflush(stdout);
	}
	return 0;
}
