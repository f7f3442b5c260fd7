import { Dialog, InputDialog, showDialog } from '@jupyterlab/apputils';
import type { IDocumentManager } from '@jupyterlab/docmanager';
import type { NotebookPanel } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import type { SnapshotModel } from '../model';
import type { Notices } from '../notices';
import type { Sleepers } from '../sleep/sleepers';
import type { IForkAnswer, ILessonDetails, ISnapshot } from '../types';
import type { Lessons } from './lessons';

/** How much of a public key tells people apart. */
const KEY_LENGTH = 16;

/**
 * What people do with lessons: start them, publish and withdraw them.
 */
export class Teaching {
  constructor(
    private readonly model: SnapshotModel,
    private readonly lessons: Lessons,
    private readonly notices: Notices,
    private readonly docManager: IDocumentManager,
    private readonly sleepers: Sleepers,
    private readonly trans: TranslationBundle
  ) {}

  /** Start a lesson, and open its notebook. */
  async start(title: string, directory = ''): Promise<void> {
    const answer = await this.begin(title, { directory });
    if (answer) {
      this.docManager.openOrReveal(answer.path, 'default', {
        id: answer.kernel_id
      });
    }
  }

  /** Start a lesson in a notebook that is open, whose kernel ends. */
  async startIn(panel: NotebookPanel): Promise<void> {
    const { trans } = this;
    const { value } = await InputDialog.getItem({
      title: trans.__('Start Lesson in This Notebook'),
      label: trans.__(
        'The notebook stays as it is, and gets a kernel in the state of the lesson. What its present kernel holds is lost.'
      ),
      items: this.lessons.all.map(({ title }) => title),
      okLabel: trans.__('Start')
    });
    if (value) {
      const { context, sessionContext } = panel;
      const answer = await this.begin(value, { path: context.path }, () =>
        sessionContext.shutdown()
      );
      if (answer) {
        await this.sleepers.connect(panel, answer.kernel_id);
      }
    }
  }

  private async begin(
    title: string,
    where: { directory?: string; path?: string },
    prepare: () => Promise<void> = async () => undefined
  ): Promise<IForkAnswer | undefined> {
    const { model, lessons, notices, trans } = this;
    let details: ILessonDetails;
    try {
      details = await model.client.lesson(title);
    } catch (error) {
      notices.fail(error);
      void lessons.refresh();
      return undefined;
    }
    if (!(await this.isAgreed(details))) {
      return undefined;
    }
    const { signer, trusted } = details.lesson;
    const cancel = new AbortController();
    const answer = await notices.during(
      trans.__('Starting “%1”…', title),
      async report => {
        await prepare();
        return model.client.startLesson(
          title,
          { ...where, trust: trusted ? '' : signer },
          { progress: report, signal: cancel.signal }
        );
      },
      answer => ({
        message: trans.__(
          '“%1” is started. You can go back to its beginning at any time, by the button in the toolbar.',
          title
        ),
        warnings: answer.warnings
      }),
      { cancel: () => cancel.abort() }
    );
    void lessons.refresh();
    return answer;
  }

  /** Have others start from a snapshot. */
  async publish(snapshot: ISnapshot): Promise<void> {
    const { model, lessons, notices, trans } = this;
    const { value } = await InputDialog.getText({
      title: trans.__('Publish “%1” as a Lesson', snapshot.name),
      label: trans.__(
        'Whoever may read %1 can read everything that the kernel had in memory: also passwords and keys. Title of the lesson:',
        lessons.where
      ),
      text: snapshot.name,
      okLabel: trans.__('Publish')
    });
    if (!value) {
      return;
    }
    const cancel = new AbortController();
    await notices.during(
      trans.__('Publishing “%1”…', value),
      report =>
        model.client.publish(
          { snapshot: snapshot.name, title: value },
          { progress: report, signal: cancel.signal }
        ),
      answer => ({
        message: trans.__('Lesson “%1” is published.', answer.title),
        warnings: answer.warnings,
        actions: [
          {
            label: trans.__('Withdraw'),
            caption: trans.__('Take the lesson away again'),
            callback: () => void this.remove(answer.title)
          }
        ]
      }),
      { cancel: () => cancel.abort() }
    );
    await lessons.refresh();
  }

  /** Take a lesson away, if that is what somebody wants. */
  async withdraw(title: string): Promise<void> {
    const { trans } = this;
    const { button } = await showDialog({
      title: trans.__('Withdraw “%1”?', title),
      body: trans.__(
        'Nobody can start it any more. Whoever has started it goes on, and can still go back to its beginning.'
      ),
      buttons: [
        Dialog.cancelButton(),
        Dialog.warnButton({ label: trans.__('Withdraw') })
      ]
    });
    if (button.accept) {
      await this.remove(title);
    }
  }

  private async remove(title: string): Promise<void> {
    try {
      await this.model.client.withdraw(title);
      this.notices.tell({
        message: this.trans.__('Lesson “%1” is withdrawn.', title)
      });
    } catch (error) {
      this.notices.fail(error);
    }
    await this.lessons.refresh();
  }

  /** Whether it can be started, and may be. */
  private async isAgreed(details: ILessonDetails): Promise<boolean> {
    const { trans } = this;
    const { lesson, missing } = details;
    if (missing.length) {
      await showDialog({
        title: trans.__('“%1” cannot be started here', lesson.title),
        body: (
          <div className="jp-cr-Trust">
            <p>{trans.__('It was made on another machine, and lacks here:')}</p>
            <ul>
              {missing.map(sentence => (
                <li key={sentence}>{sentence}</li>
              ))}
            </ul>
          </div>
        ),
        buttons: [Dialog.okButton({ label: trans.__('Close') })]
      });
      return false;
    }
    if (lesson.trusted) {
      return true;
    }
    const { button } = await showDialog({
      title: trans.__('Trust %1?', lesson.publisher),
      body: (
        <div className="jp-cr-Trust">
          <p>
            {trans.__(
              '“%1” was published by somebody called %2, who is not known here:',
              lesson.title,
              lesson.publisher
            )}{' '}
            <code title={lesson.signer}>
              {lesson.signer.slice(0, KEY_LENGTH)}…
            </code>
          </p>
          <p>
            {trans.__(
              'To start it is to run its code, with all your rights: it could read, change and delete whatever you can. If you trust them, what they publish later starts without being asked about, too.'
            )}
          </p>
        </div>
      ),
      buttons: [
        Dialog.cancelButton(),
        Dialog.warnButton({ label: trans.__('Trust and Start') })
      ]
    });
    return button.accept;
  }
}
