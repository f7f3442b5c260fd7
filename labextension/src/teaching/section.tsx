import type { TranslationBundle } from '@jupyterlab/translation';
import { deleteIcon, runIcon } from '@jupyterlab/ui-components';
import React, { useEffect, useReducer } from 'react';

import { formatAge, formatBytes } from '../format';
import type { ILesson } from '../types';
import type { Lessons } from './lessons';
import type { Teaching } from './teaching';

/**
 * The part of the panel that lists lessons: how often each was started, and what can be done
 * with it. Nothing where no place for them is set.
 */
export function LessonsSection(props: {
  lessons: Lessons;
  teaching: Teaching;
  trans: TranslationBundle;
}): JSX.Element | null {
  const { lessons, teaching, trans } = props;
  const [, bump] = useReducer((count: number) => count + 1, 0);
  useEffect(() => {
    const listen = () => bump();
    lessons.changed.connect(listen);
    return () => {
      lessons.changed.disconnect(listen);
    };
  }, [lessons]);
  if (!lessons.where && !lessons.problem) {
    return null;
  }
  return (
    <details className="jp-cr-Lessons">
      <summary title={lessons.where}>
        {trans.__('Lessons (%1)', lessons.all.length)}
      </summary>
      {lessons.problem && (
        <p className="jp-cr-Hint" role="status">
          {lessons.problem.message} {lessons.problem.hint}
        </p>
      )}
      <ul aria-label={trans.__('Lessons')}>
        {lessons.all.map(lesson => (
          <Item
            key={lesson.title}
            lesson={lesson}
            teaching={teaching}
            trans={trans}
          />
        ))}
      </ul>
    </details>
  );
}

function Item(props: {
  lesson: ILesson;
  teaching: Teaching;
  trans: TranslationBundle;
}): JSX.Element {
  const { lesson, teaching, trans } = props;
  const { title, note, publisher, own, starts } = lesson;
  const facts = [
    own ? trans.__('by you') : trans.__('by %1', publisher),
    formatAge(lesson.published),
    formatBytes(lesson.bytes),
    starts === null ? '' : trans._n('started once', 'started %1 times', starts)
  ];
  return (
    <li className="jp-cr-Lessons-item">
      <div className="jp-cr-Lessons-text">
        <b>{title}</b>
        {note && <div>{note}</div>}
        <div className="jp-cr-Lessons-facts">
          {facts.filter(Boolean).join(' · ')}
        </div>
      </div>
      <button
        className="jp-cr-Lessons-button"
        title={trans.__('Start “%1”', title)}
        onClick={() => void teaching.start(title)}
      >
        <runIcon.react tag="span" />
      </button>
      {own && (
        <button
          className="jp-cr-Lessons-button"
          title={trans.__('Withdraw “%1”', title)}
          onClick={() => void teaching.withdraw(title)}
        >
          <deleteIcon.react tag="span" />
        </button>
      )}
    </li>
  );
}
