/* Asynchronous input and output of Linux. */
#include "test.h"

#include <linux/aio_abi.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

static aio_context_t setup(unsigned count) {
    aio_context_t context = 0;
    CHECK_OK(syscall(SYS_io_setup, count, &context));
    return context;
}

static long submit(aio_context_t context, long count, struct iocb **requests) {
    return syscall(SYS_io_submit, context, count, requests);
}

static long events_of(aio_context_t context, long minimum, long count, struct io_event *events) {
    struct timespec none = {0, 0};
    return syscall(SYS_io_getevents, context, minimum, count, events, &none);
}

static int scratch_file(void) {
    enter_scratch();
    return CHECK_OK(open("file", O_CREAT | O_RDWR, 0600));
}

TEST(setup_checks_its_arguments) {
    aio_context_t context = 1;
    CHECK_ERR(syscall(SYS_io_setup, 4, &context), EINVAL);
    context = 0;
    CHECK_ERR(syscall(SYS_io_setup, 0, &context), EINVAL);
    CHECK_ERR(syscall(SYS_io_setup, 4, BAD), EFAULT);
    CHECK_ERR(syscall(SYS_io_setup, 0x10000000, &context), EINVAL);
    CHECK_ERR(syscall(SYS_io_destroy, 12345L), EINVAL);
    context = setup(4);
    CHECK_OK(syscall(SYS_io_destroy, context));
    CHECK_ERR(syscall(SYS_io_destroy, context), EINVAL);
    struct io_event event;
    CHECK_ERR(events_of(context, 0, 1, &event), EINVAL);
}

TEST(writes_and_reads) {
    int fd = scratch_file();
    aio_context_t context = setup(8);
    char text[8] = "";
    struct iovec parts[] = {{"no", 2}, {"pq", 2}};
    struct iocb first = {.aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = fd, .aio_buf = (uintptr_t) "abcd",
                         .aio_nbytes = 4, .aio_offset = 2, .aio_data = 71};
    struct iocb second = {.aio_lio_opcode = IOCB_CMD_PWRITEV, .aio_fildes = fd, .aio_buf = (uintptr_t)parts,
                          .aio_nbytes = 2, .aio_offset = 6, .aio_data = 72};
    struct iocb *requests[] = {&first, &second};
    CHECK_EQ(submit(context, 2, requests), 2);
    struct io_event events[4];
    struct timespec time = {5, 0};
    CHECK_EQ(syscall(SYS_io_getevents, context, 2, 4, events, &time), 2);
    CHECK_EQ(events[0].data + events[1].data, 143);
    CHECK_EQ(events[0].res, 4);
    struct iocb read = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = fd, .aio_buf = (uintptr_t)text,
                        .aio_nbytes = 8, .aio_offset = 4, .aio_data = 73};
    requests[0] = &read;
    CHECK_EQ(submit(context, 1, requests), 1);
    CHECK_EQ(syscall(SYS_io_getevents, context, 1, 4, events, NULL), 1);
    CHECK_EQ(events[0].res, 6);
    CHECK_EQ(events[0].obj, (uintptr_t)&read);
    CHECK(!memcmp(text, "cdnopq", 6));
    read.aio_lio_opcode = IOCB_CMD_FSYNC;
    read.aio_nbytes = read.aio_offset = read.aio_buf = 0;
    CHECK_EQ(submit(context, 1, requests), 1);
    CHECK_EQ(syscall(SYS_io_getevents, context, 1, 4, events, NULL), 1);
    CHECK_EQ(events[0].res, 0);
    CHECK_EQ(events_of(context, 0, 4, events), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    CHECK_OK(syscall(SYS_io_destroy, context));
}

TEST(bad_requests) {
    int fd = scratch_file();
    aio_context_t context = setup(2);
    struct iocb bad = {.aio_lio_opcode = 99, .aio_fildes = fd}, closed = {.aio_fildes = 900};
    struct iocb *requests[] = {&bad, &closed, BAD};
    CHECK_ERR(submit(context, 1, requests), EINVAL);
    CHECK_ERR(submit(context, 1, requests + 1), EBADF);
    CHECK_ERR(submit(context, 1, requests + 2), EFAULT);
    CHECK_ERR(submit(context, -1, requests), EINVAL);
    CHECK_ERR(submit(context, 1, BAD), EFAULT);
    CHECK_EQ(submit(context, 0, requests), 0);
    int write_only = CHECK_OK(open("file", O_WRONLY));
    struct iocb read = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = write_only};
    requests[0] = &read;
    CHECK_ERR(submit(context, 1, requests), EBADF);
    struct io_event event;
    CHECK_ERR(events_of(context, 2, 1, &event), EINVAL);
    CHECK_ERR(events_of(context, -1, 1, &event), EINVAL);
}

TEST(results_are_told_by_an_event_file) {
    int fd = scratch_file(), told = CHECK_OK(eventfd(0, EFD_NONBLOCK));
    aio_context_t context = setup(8);
    struct iocb write = {.aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = fd, .aio_buf = (uintptr_t) "x",
                         .aio_nbytes = 1, .aio_flags = IOCB_FLAG_RESFD, .aio_resfd = told};
    struct iocb *requests[] = {&write, &write, &write};
    CHECK_EQ(submit(context, 3, requests), 3);
    struct io_event events[3];
    CHECK_EQ(syscall(SYS_io_getevents, context, 3, 3, events, NULL), 3);
    uint64_t count;
    CHECK_EQ(read(told, &count, 8), 8);
    CHECK_EQ(count, 3);
    write.aio_resfd = fd;
    CHECK_ERR(submit(context, 1, requests), EINVAL);
}

TEST(contexts_are_not_inherited) {
    aio_context_t context = setup(2);
    CHECK_EXIT(CHILD({ CHECK_ERR(syscall(SYS_io_destroy, context), EINVAL); }), 0);
    CHECK_OK(syscall(SYS_io_destroy, context));
}
