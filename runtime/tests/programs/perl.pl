#!/usr/bin/perl
# needs: perl
# Processes, pipes, signals, sockets, files and locks in perl.
use strict; use warnings;
use POSIX qw(:sys_wait_h); use IO::Handle; use Socket; use IO::Select; use File::Temp; use File::Find; use Fcntl qw(:flock :seek); use Time::HiRes qw(sleep alarm);
$| = 1;
print "perl ", ($] > 5 ? "new" : "old"), "\n";
open(my $pipe, '-|', 'echo from child; exit 3') or die; print while <$pipe>; close $pipe; print "status ", $? >> 8, "\n";
open(my $to, '|-', 'tr a-z A-Z') or die; print $to "shout\n"; close $to;
print `echo back; echo ticks`; system('sh', '-c', 'exit 5'); print "system ", $? >> 8, "\n"; system('kill -9 $$'); print "signal ", $? & 127, "\n";
pipe(my $r, my $w); my @children; for my $n (1 .. 5) { my $pid = fork // die; if (!$pid) { syswrite $w, "$n\n"; exit $n } push @children, $pid }
close $w; my $sum = 0; $sum += $_ while <$r>; print "sum $sum\n"; my $codes = 0; for (@children) { waitpid $_, 0; $codes += $? >> 8 } print "codes $codes\n";
print "none ", waitpid(-1, WNOHANG), "\n";
my $got = 0; local $SIG{USR1} = sub { $got++ }; kill USR1 => $$ for 1 .. 3; print "signals ", ($got >= 1 ? "yes" : "no"), "\n";
local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 0.1; sleep 5; }; print "died $@";
local $SIG{CHLD} = sub { 1 while waitpid(-1, WNOHANG) > 0 }; for (1 .. 20) { my $pid = fork // die; exit 0 unless $pid } sleep 0.05 for 1 .. 30; print "reaped ", waitpid(-1, WNOHANG), "\n"; $SIG{CHLD} = 'DEFAULT';
socketpair(my $left, my $right, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die; $_->autoflush(1) for $left, $right; if (!fork) { close $left; while (<$right>) { print $right uc } exit } close $right; print $left "line\n"; print scalar <$left>; close $left; wait;
socket(my $server, PF_UNIX, SOCK_STREAM, 0); bind($server, sockaddr_un('sock')) or die $!; listen($server, 5);
if (!fork) { socket(my $c, PF_UNIX, SOCK_STREAM, 0); connect($c, sockaddr_un('sock')) or die $!; syswrite $c, "hello\n"; exit } accept(my $c, $server) or die; $got = <$c> // die; print "server got $got"; wait;
my $s = IO::Select->new; pipe(my $p, my $q); $s->add($p); my @ready = $s->can_read(0.05); print "ready ", scalar(@ready), "\n"; syswrite $q, "x"; @ready = $s->can_read(1); print "ready ", scalar(@ready), "\n";
open(my $f, '+>', 'file') or die; print $f "0123456789"; seek $f, 3, SEEK_SET; read $f, my $part, 4; print "$part\n"; truncate $f, 5; print -s 'file', "\n"; flock $f, LOCK_EX; print "locked\n";
if (!fork) { open(my $g, '<', 'file'); print "try ", (flock($g, LOCK_EX | LOCK_NB) ? "got" : "busy"), "\n"; exit } wait; close $f;
mkdir 'd'; symlink 'file', 'd/link'; rename 'file', 'd/file'; my @found; find(sub { push @found, $File::Find::name }, 'd'); print join(' ', sort @found), "\n"; print readlink('d/link'), "\n";
utime 1000, 2000, 'd/file'; my @st = stat 'd/file'; print "@st[7,8,9]\n"; chmod 0600, 'd/file'; printf "%o\n", (stat 'd/file')[2]; unlink 'd/file', 'd/link'; rmdir 'd'; print -e 'd' ? "there\n" : "gone\n";
my $tmp = File::Temp->new; print $tmp "x" x 100000; close $tmp; print -s $tmp->filename, "\n"; print join(',', map { sprintf '%03d', $_ } sort { $a <=> $b } map { $_ * 7 % 11 } 1 .. 10), "\n";
my ($out, $in); my $text = 'word ' x 50000; my %count; $count{$_}++ for split ' ', $text; print "$count{word}\n"; print "done\n"; exit 42;
